"""Trains small models on one and on two CPU devices, in a process that has two, and writes what came of either.

python tests/devices/two_devices.py model FILE
"""

# ruff: noqa: E402, the number of devices is fixed before they are looked at

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np
import tensorflow as tf

configuration = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], configuration)

import keras_adavit as ka
from keras_adavit.devices.dispatch import find_devices
from keras_adavit.training.losses import CrossEntropy, accuracy
from keras_adavit.training.optimizers import adamw

SIZES = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
BATCH, VALIDATION = 16, 33  # the last validation batch is one image, which leaves none to the second device
TERMS = {"head_entropy": 0.1, "block_diversity": 0.1, "token_minimum": 0.9, "token_minimum_weight": 0.1}
rng = np.random.default_rng(0)
images, labels = rng.normal(size=(64, 8, 8, 3)).astype("float32"), rng.integers(0, 4, 64).astype("int32")
data = tf.data.Dataset.from_tensor_slices((images, labels))
found = {}

for count in (1, 2):
    devices = find_devices(count)
    assert devices.count == count
    keras.utils.set_random_seed(0)
    with devices.scope():
        teacher = ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES), 4)
        # Thresholds near the first decisions, so that usage differs from image to image.
        gates = ka.GateConfig(first_gated_block=1, initial_bias=0.35, block_threshold=0.59, head_threshold=0.59)
        model = ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES, gates=gates, drop_path=0.5), 4)
        model.compile(
            # A large epsilon: AdamW makes whole steps of gradients that are zero but for rounding.
            adamw(learning_rate=1e-2, steps=8, epsilon=1e-2, average=0.9, clip_norm=0.05),
            CrossEntropy(),
            metrics=[accuracy],
            budget=ka.BudgetLoss(token_target=0.4, head_target=0.3, block_target=0.6, macs_target=0.5, **TERMS),
            teacher=teacher,
            jit_compile=False,
        )
        history = model.fit(
            data.batch(BATCH, drop_remainder=True).repeat(),
            validation_data=data.take(VALIDATION).batch(BATCH),
            epochs=2,
            steps_per_epoch=4,
            verbose=0,
            shuffle=False,
        )
    found.update({f"{count} {key}": value for key, value in history.history.items()})
    for number, variable in enumerate([*model.weights, *model.optimizer.variables]):
        found[f"{count} variable {number}"] = keras.ops.convert_to_numpy(variable)
np.savez(sys.argv[2], **{name: np.asarray(value) for name, value in found.items()})
