"""A small gated classifier, and what it gives in both executions."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka

XLA_CHOICE = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="XLA is a choice on TensorFlow alone: JAX has no other, torch none"
)


def make_model(gates=None, stem="patch", depth=3, **kwargs):
    """A small classifier with gates that decide differently for each image."""
    gates = ka.GateConfig() if gates is None else gates
    sizes = {"image_size": 32, "patch_size": 16 if stem != "patch" else 8, "width": 24, "depth": depth, "num_heads": 3}
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**sizes, mlp_ratio=2.0, gates=gates, stem=stem, **kwargs), 5)
    rng = np.random.default_rng(1)
    for block in model.backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.kernel.assign(rng.normal(size=gate.kernel.shape))
                gate.bias.assign(rng.normal(size=gate.bias.shape))
    return model


def make_images(batch, size=32):
    return np.random.default_rng(2).normal(size=(batch, size, size, 3)).astype("float32")


def both(model, images, run):
    """What `run(model, images)` gives masked and packed, two dicts of arrays."""
    found = []
    for execution in ("masked", "packed"):
        model.execution = execution
        found.append({key: ops.convert_to_numpy(value) for key, value in run(model, images).items()})
    return found
