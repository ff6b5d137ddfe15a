"""Training in float16: the loss is scaled, and a step whose gradients overflow changes nothing but the scale."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.training.optimizers import adamw
from keras_adavit.weights.transfer import weights_by_path


@pytest.fixture
def _float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("_float16")
def test_a_step_that_overflows_is_left_out():
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=2, num_heads=2, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, num_classes=3)
    budget = ka.BudgetLoss(macs_target=0.5, token_target=0.5, head_target=0.5, block_target=0.5)
    optimizer = adamw(1e-3, steps=10, clip_norm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, budget=budget, jit_compile=keras.backend.backend() == "jax")
    model.optimizer.build(model.trainable_variables)
    images, labels = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32"), np.array([0, 1, 2, 0])

    def step(scale):
        """Logs of a step, the weights before and after it, and the scale after it."""
        model.optimizer.dynamic_scale.assign(scale)
        before = {path: ops.convert_to_numpy(weight).copy() for path, weight in weights_by_path(model).items()}
        logs = model.fit(images, labels, batch_size=4, epochs=1, verbose=0).history
        assert all(np.isfinite(values).all() for values in logs.values())
        assert logs["macs_budget_loss"][0] > 0
        after = {path: ops.convert_to_numpy(weight) for path, weight in weights_by_path(model).items()}
        changed = {path for path in before if path != "step" and not np.array_equal(before[path], after[path])}
        return changed, float(ops.convert_to_numpy(model.optimizer.dynamic_scale))

    changed, scale = step(2.0**126)
    assert not changed
    assert scale == 2.0**125
    changed, scale = step(2.0**10)
    assert "head/kernel" in changed
    assert any("gate" in path for path in changed)
    assert scale == 2.0**10
