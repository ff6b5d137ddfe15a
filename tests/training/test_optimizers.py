import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.training import schedules
from keras_adavit.training.optimizers import adamw, portable_config


def value(schedule, step):
    return float(ops.convert_to_numpy(schedules.value_at(schedule, step)))


def test_warmup_then_cosine():
    schedule = schedules.warmup_cosine(1e-3, steps=110, warmup_steps=10, final=1e-5)
    assert value(schedule, 0) == pytest.approx(0.0)
    assert value(schedule, 10) == pytest.approx(1e-3)
    assert value(schedule, 60) == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-3)
    assert value(schedule, 110) == pytest.approx(1e-5, rel=1e-3)


def test_linear_and_plain_numbers():
    schedule = schedules.linear(5.0, 1.0, 8)
    assert [value(schedule, step) for step in (0, 4, 8, 100)] == pytest.approx([5.0, 3.0, 1.0, 1.0])
    assert value(0.25, 3) == 0.25


def trained(**arguments):
    """A model, and its weights before and after a step with gradients of zero: what decays, shrinks."""
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=2, num_heads=2, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, num_classes=3)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer = adamw(0.1, steps=10, clip_norm=1.0, **arguments)
    optimizer.build(model.trainable_variables)
    optimizer.apply([ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    return {v.path: float(ops.convert_to_numpy(v).ravel()[0]) for v in model.trainable_variables}


@pytest.mark.parametrize("gate_learning_rate", [None, 0.5])
def test_decay_spares_biases_norms_class_token_positions_and_gates_of_their_own(gate_learning_rate):
    after = trained(weight_decay=0.1, gate_learning_rate=gate_learning_rate)
    kept = {path for path, value in after.items() if value == 1.0}
    spared = ("bias", "gamma", "beta", "class_token", "position")
    expected = {p for p in after if p.endswith(spared) or (gate_learning_rate and "_gate/" in p)}
    assert kept == expected
    decayed = [value for path, value in after.items() if path not in expected]
    np.testing.assert_allclose(decayed, 1 - 0.1 * 0.1, rtol=1e-5)


def test_gates_learn_at_their_own_rate():
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=2, num_heads=2, gates=ka.GateConfig())
    variables = ka.AdaViTClassifier(backbone, num_classes=3).trainable_variables
    before = [ops.convert_to_numpy(v).copy() for v in variables]
    optimizer = adamw(1e-3, steps=10, weight_decay=0.0, gate_learning_rate=1e-2)
    optimizer.build(variables)
    optimizer.apply([ops.ones(v.shape) for v in variables], variables)
    for variable, old in zip(variables, before, strict=True):
        step = np.abs(ops.convert_to_numpy(variable) - old).mean()
        assert step == pytest.approx(1e-2 if "_gate/" in variable.path else 1e-3, rel=1e-3)


def test_saved_optimizers_name_no_backend():
    config = portable_config(keras.saving.serialize_keras_object(adamw(1e-3, 10, gate_learning_rate=1e-2)))
    assert "backend.torch" not in str(config)
    assert isinstance(keras.saving.deserialize_keras_object(config), keras.optimizers.MultiOptimizer)
