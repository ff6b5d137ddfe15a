import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka


def build(**gates):
    keras.utils.set_random_seed(0)
    config = ka.GateConfig(temperature=1.0, token_threshold=0.5, initial_bias=0.5, **gates)
    return ka.AdaViTClassifier(ka.AdaViTBackbone(16, 4, 24, 3, 3, 2.0, gates=config), 4)


def images(count=16):
    return np.random.default_rng(0).normal(size=(count, 16, 16, 3)).astype("float32")


def test_one_step_trains_the_rate_of_every_gate_and_the_context():
    model = build(follow_budget=True, token_context=True)
    budget = ka.BudgetLoss(macs_target=0.5, macs_spread=0.2, noise_free=True)
    model.compile(keras.optimizers.SGD(1.0), ka.CrossEntropy(), budget=budget)
    wanted = [weight for weight in model.trainable_variables if weight.name in ("budget_rate", "context_kernel")]
    before = [ops.convert_to_numpy(weight).copy() for weight in wanted]
    model.fit(images(), np.arange(16) % 4, epochs=2, batch_size=8, verbose=0)
    assert len(wanted) == 3 + 2 * 2 + 3  # rates of token gates, of the others from block 1 on, contexts
    for weight, old in zip(wanted, before, strict=True):
        assert (ops.convert_to_numpy(weight) != old).any(), weight.path


def test_a_larger_budget_opens_gates():
    gate = build(follow_budget=True).backbone.blocks[0].token_gate
    inputs = keras.random.normal((64, 24))
    closed, middle, opened, as_is = (
        ops.convert_to_numpy(gate(inputs, budget_offset=offset)[1]) for offset in (-1.0, 0.0, 1.0, None)
    )
    assert (closed < middle).all()
    assert (middle < opened).all()
    np.testing.assert_array_equal(middle, as_is)


def test_target_of_a_step_is_the_one_drawn():
    model = build(follow_budget=True)
    budget = ka.BudgetLoss(macs_target=0.5, macs_spread=0.2)
    outputs = model(images(2), policy=ka.OpenPolicy())
    for offset, target in ((-1.0, 0.3), (1.0, 0.7)):
        drawn = outputs | {"budget_offset": ops.full((2,), offset)}
        term = ops.convert_to_numpy(budget(drawn, model.backbone.gates, model.dense_macs)["macs"])
        used = ops.convert_to_numpy(outputs["macs"])[0] / model.dense_macs
        assert float(term) == pytest.approx(used - target, abs=1e-5)


def test_calibration_moves_each_threshold_at_its_rate():
    model = build(heads=None, blocks=False, follow_budget=True)
    gates = [block.token_gate for block in model.backbone.blocks]
    for gate, rate in zip(gates, (0.1, 1.0, 3.0), strict=True):
        gate.kernel.assign(np.random.default_rng(1).normal(size=gate.kernel.shape))
        gate.budget_rate.assign(np.log(np.expm1(rate)))

    def logits():
        thresholds = [float(ops.convert_to_numpy(gate.threshold)) for gate in gates]
        return np.log(np.divide(thresholds, np.subtract(1.0, thresholds)))

    before = logits()
    assert ka.calibrate(model, images(64), 0.6) == pytest.approx(0.6, rel=0.02)
    moved = logits() - before
    np.testing.assert_allclose(moved / moved[1], [0.1, 1.0, 3.0], rtol=1e-3)


def test_packed_agrees_with_masked_where_gates_read_the_class_token():
    model = build(token_context=True)
    for block in model.backbone.blocks:
        for weight in (block.token_gate.kernel, block.token_gate.context_kernel):
            weight.assign(np.random.default_rng(2).normal(size=weight.shape))
    masked, packed = (model(images(), execution=execution) for execution in ("masked", "packed"))
    np.testing.assert_array_equal(*(ops.convert_to_numpy(each["token_keep"]) for each in (masked, packed)))
    np.testing.assert_allclose(*(ops.convert_to_numpy(each["logits"]) for each in (masked, packed)), atol=1e-4)


def test_spread_needs_gates_that_follow():
    with pytest.raises(ka.InputError, match="`macs_spread` needs a model with `GateConfig\\(follow_budget=True\\)`"):
        build().compile("sgd", ka.CrossEntropy(), budget=ka.BudgetLoss(macs_target=0.5, macs_spread=0.1))


def test_spread_needs_a_target():
    with pytest.raises(ka.InputError, match="`macs_spread` needs a `macs_target`"):
        ka.BudgetLoss(macs_spread=0.1)


def test_context_costs_one_more_row_a_block():
    plain, reading = build(), build(token_context=True)
    assert reading.backbone.fixed_macs - plain.backbone.fixed_macs == 3 * 24


def test_context_needs_gates_of_tokens():
    with pytest.raises(ka.InputError, match="`token_context` needs gates of `tokens`"):
        ka.GateConfig(tokens=False, token_context=True)


def test_saved_and_loaded(tmp_path):
    model = build(follow_budget=True, token_context=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.backbone.gates == model.backbone.gates
    np.testing.assert_allclose(*(ops.convert_to_numpy(each(images())["logits"]) for each in (model, loaded)), atol=1e-6)


def test_a_range_must_be_within_what_the_gates_can_skip():
    with pytest.raises(ka.InputError, match=r"`macs_spread` must be below 0\.\d+: .*Received: macs_spread=0\.29"):
        build(follow_budget=True).compile(
            "sgd", ka.CrossEntropy(), budget=ka.BudgetLoss(macs_target=0.3, macs_spread=0.29)
        )
