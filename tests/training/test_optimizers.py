import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.training import schedules
from keras_adavit.training.optimizers import adamw, gate_factors, layer_factors, portable_config
from keras_adavit.weights.transfer import weights_by_path


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


def make_model(depth=2):
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=depth, num_heads=2, gates=ka.GateConfig())
    return ka.AdaViTClassifier(backbone, num_classes=3)


def apply(model, optimizer, gradient, times=1):
    """How much each weight, all ones before, moved down under gradients that are the same everywhere: by path."""
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer.build(variables)
    for _ in range(times):
        optimizer.apply([gradient * ops.ones(v.shape) for v in variables], variables)
    return {
        path: 1 - float(ops.convert_to_numpy(v).ravel()[0]) for path, v in weights_by_path(model).items() if v.trainable
    }


def test_decay_spares_biases_norms_class_token_positions_and_gates():
    moved = apply(make_model(), adamw(0.1, steps=10, weight_decay=0.1), 0.0)
    spared = ("bias", "gamma", "beta", "class_token", "position")
    decayed = {path for path in moved if not path.endswith(spared) and "_gate/" not in path}
    assert {path for path, step in moved.items() if step} == decayed
    np.testing.assert_allclose([moved[path] for path in decayed], 0.1 * 0.1, rtol=1e-4)


def test_each_kind_of_gate_learns_at_its_own_rate():
    factors = gate_factors(1.0, {"token": 10.0, "head": 2.0, "block": 1.0})
    moved = apply(make_model(), adamw(1e-3, steps=10, weight_decay=0.0, factors=factors), 1.0)
    for path, step in moved.items():
        expected = 1e-2 if "token_gate/" in path else 2e-3 if "head_gate/" in path else 1e-3
        assert step == pytest.approx(expected, rel=1e-3), path


def test_what_gates_read_through_learns_at_their_rate():
    gates = ka.GateConfig(normalize_policy_input=True)
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=2, num_heads=2, gates=gates)
    factors = layer_factors(0.5, 2) | gate_factors(10.0, {"token": 2.0, "head": 1.0, "block": 1.0})
    moved = apply(ka.AdaViTClassifier(backbone, 3), adamw(1e-3, steps=10, weight_decay=0.0, factors=factors), 1.0)
    for path, step in moved.items():
        if "_gate/" in path or "policy_norm/" in path:
            assert step == pytest.approx(2e-2 if "token_gate/" in path else 1e-2, rel=1e-3), path


def test_rates_fall_from_layer_to_layer_and_decay_with_them():
    moved = apply(make_model(3), adamw(1e-2, steps=10, weight_decay=0.0, factors=layer_factors(0.5, 3)), 1.0)
    expected = {"stem/": 4, "class_token": 4, "position": 4, "block_0/": 3, "block_1/": 2, "block_2/": 1}
    for path, step in moved.items():
        power = 0 if "_gate/" in path else next((n for start, n in expected.items() if path.startswith(start)), 0)
        assert step == pytest.approx(1e-2 * 0.5**power, rel=1e-3), path
    decayed = apply(make_model(3), adamw(1e-2, steps=10, weight_decay=0.1, factors=layer_factors(0.5, 3)), 0.0)
    assert decayed["block_0/mlp/expand/kernel"] == pytest.approx(1e-3 / 8, rel=1e-3)


def test_clipping_by_global_norm():
    model = make_model()
    optimizer = adamw(1e-3, steps=10, global_clip_norm=1e-3, weight_decay=0.0)
    count = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    apply(model, optimizer, 5.0)
    first = next(variable for variable in optimizer.variables if "momentum" in variable.path)
    # All gradients are alike, so that each is clipped to 1e-3 / √count, and the first moment is a tenth of that.
    momentum = np.abs(ops.convert_to_numpy(first)).max()
    assert momentum == pytest.approx(0.1 * 1e-3 / count**0.5, rel=1e-3)


def test_batches_are_accumulated_to_one_update():
    whole = apply(make_model(), adamw(1e-2, steps=10**6, weight_decay=0.1), 1.0, times=3)
    parts = apply(make_model(), adamw(1e-2, steps=10**6, weight_decay=0.1, accumulate=2), 1.0, times=6)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_weights_are_averaged_over_updates():
    means = {}
    for accumulate in (1, 2):
        model = make_model()
        optimizer = adamw(1e-2, steps=100 * accumulate, weight_decay=0.0, average=0.9, accumulate=accumulate)
        apply(model, optimizer, 1.0, times=8 * accumulate)
        own = float(ops.convert_to_numpy(model.backbone.class_token).ravel()[0])
        optimizer.finalize_variable_values(model.trainable_variables)
        means[accumulate] = float(ops.convert_to_numpy(model.backbone.class_token).ravel()[0])
        assert own < means[accumulate] < 1
    assert means[1] == pytest.approx(means[2], abs=0.01)


def test_saved_optimizers_name_no_backend():
    optimizer = adamw(1e-3, 10, factors={"a": 2.0}, average=0.5, global_clip_norm=1.0)
    for each in (optimizer, keras.optimizers.AdamW(1e-3)):
        config = portable_config(keras.saving.serialize_keras_object(each))
        assert "backend.torch" not in str(config)
        again = keras.saving.deserialize_keras_object(config)
        assert again.get_config() == each.get_config()


def test_cooldown_and_steps_of_an_epoch():
    """Ten epochs of five steps: two warm up from 1e-6, the last three have the final rate."""
    smooth = schedules.warmup_cosine(1e-3, 50, 10, 1e-5, 1e-6, cooldown_steps=15)
    schedule = schedules.EveryEpoch(smooth, 5)
    assert value(smooth, 0) == pytest.approx(1e-6)
    assert [value(smooth, step) for step in (35, 40, 49)] == pytest.approx([1e-5] * 3)
    for step in range(50):
        assert value(schedule, step) == value(smooth, step // 5 * 5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert value(again, 13) == value(schedule, 13)


def test_epsilon_and_decay_of_gates():
    optimizer = adamw(1e-2, steps=10**6, weight_decay=0.1, epsilon=1e-8, decay_gates=True)
    assert optimizer.epsilon == 1e-8
    moved = apply(make_model(), optimizer, 0.0)
    assert moved["block_1/token_gate/kernel"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["block_1/token_gate/bias"] == 0
    assert moved["block_1/mlp/expand/kernel"] == pytest.approx(1e-3, rel=1e-3)
