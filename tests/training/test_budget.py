import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka

GATES = ka.GateConfig(first_gated_block=0)


def outputs(batch=6, seed=0):
    """A random policy of 4 blocks, 5 tokens and 3 heads, with logits and MACs."""
    rng = np.random.default_rng(seed)
    shapes = {"token_keep": (4, 5), "head_keep": (4, 3), "block_keep": (4, 2)}
    keep = {name: rng.integers(0, 2, (batch, *shape)).astype("float32") for name, shape in shapes.items()}
    keep["token_keep"][:, :, 0] = 1
    logits = {
        f"{kind}_logits": rng.normal(size=(batch, 4, n)).astype("float32") for kind, n in (("head", 3), ("block", 2))
    }
    arrays = keep | logits | {"macs": rng.uniform(20, 80, batch).astype("float32")}
    return {name: ops.convert_to_tensor(value) for name, value in arrays.items()}


def terms(budget, gates=GATES, step=0, **changes):
    found = budget(outputs() | changes, gates, dense_macs=100.0, step=step)
    return {kind: float(ops.convert_to_numpy(value)) for kind, value in found.items()}


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ({"token_target": 0.2}, "token"),
        ({"head_target": 0.2}, "head"),
        ({"block_target": 0.2}, "block"),
        ({"head_diversity": 1.0}, "head"),
        ({"block_diversity": 1.0}, "block"),
        ({"head_entropy": 1.0}, "head"),
        ({"block_entropy": 1.0}, "block"),
        ({"head_minimum": 0.9, "head_minimum_weight": 1.0}, "head"),
        ({"block_minimum": 0.9, "block_minimum_weight": 1.0}, "block"),
        ({"token_minimum": 0.9, "token_minimum_weight": 1.0}, "token"),
    ],
)
def test_every_option_changes_its_own_term_alone(option, kind):
    before, after = terms(ka.BudgetLoss()), terms(ka.BudgetLoss(**option))
    assert {name for name in before if before[name] != after[name]} == {kind}


def test_weights_scale_the_total():
    found = {"token": 1.0, "head": 10.0, "block": 100.0, "macs": 1000.0}
    assert ka.BudgetLoss().total(found) == 2 * 111 + 4 * 1000
    weights = {"token_weight": 1.0, "head_weight": 0.0, "block_weight": 3.0, "macs_weight": 0.5}
    assert ka.BudgetLoss(**weights).total(found) == 1 + 300 + 500


def test_macs_target_as_a_share_or_absolute_is_the_only_target():
    share, absolute = terms(ka.BudgetLoss(macs_target=0.3)), terms(ka.BudgetLoss(macs_target=30.0))
    assert list(share) == list(absolute) == ["macs"]
    expected = abs(float(ops.convert_to_numpy(outputs()["macs"]).mean()) / 100 - 0.3)
    assert share["macs"] == pytest.approx(expected, rel=1e-5)
    assert absolute["macs"] == pytest.approx(expected, rel=1e-5)


def test_targets_beside_macs_are_kept():
    assert set(terms(ka.BudgetLoss(macs_target=0.3, head_target=0.8))) == {"head", "macs"}


def test_kinds_without_a_gate_have_no_term():
    gates = ka.GateConfig(heads=None, blocks=False)
    assert set(terms(ka.BudgetLoss(), gates)) == {"token"}


def test_ungated_blocks_do_not_count():
    gates = ka.GateConfig(first_gated_block=2, first_token_gated_block=1)
    policy = outputs()
    changed = {
        "block_keep": ops.concatenate([ops.ones((6, 2, 2)), policy["block_keep"][:, 2:]], axis=1),
        "token_keep": ops.concatenate([ops.ones((6, 1, 5)), policy["token_keep"][:, 1:]], axis=1),
    }
    assert terms(ka.BudgetLoss(), gates) == pytest.approx(terms(ka.BudgetLoss(), gates, **changed))


def test_entropy_is_that_of_the_probabilities_and_needs_logits():
    logits = ops.convert_to_numpy(outputs()["block_logits"]).astype("float64")
    p = 1 / (1 + np.exp(-logits))
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()
    plain = terms(ka.BudgetLoss())["block"]
    assert terms(ka.BudgetLoss(block_entropy=0.5))["block"] == pytest.approx(plain - 0.5 * entropy, rel=1e-4)
    policy = {name: value for name, value in outputs().items() if not name.endswith("logits")}
    found = ka.BudgetLoss(block_entropy=0.5)(policy, GATES, 100.0)["block"]
    assert float(ops.convert_to_numpy(found)) == pytest.approx(plain, rel=1e-5)


def test_an_unused_block_says_nothing_about_its_heads():
    budget = ka.BudgetLoss(head_diversity=1.0, head_minimum=0.9, head_minimum_weight=1.0)
    off = ops.concatenate([ops.zeros((6, 1, 2)), ops.ones((6, 3, 2))], axis=1)
    heads = ops.convert_to_numpy(outputs()["head_keep"]).copy()
    one = terms(budget, block_keep=off)["head"]
    heads[:, 0] = 1 - heads[:, 0]
    other = terms(budget, block_keep=off, head_keep=ops.convert_to_tensor(heads))["head"]
    assert np.isfinite(one)
    assert one == pytest.approx(other, rel=1e-6)


def test_targets_follow_schedules():
    falling = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.5)
    found = [terms(ka.BudgetLoss(block_target=falling), step=step)["block"] for step in (0, 10)]
    usage = ops.convert_to_numpy(outputs()["block_keep"]).mean()
    np.testing.assert_allclose(found, [1 - usage, abs(0.5 - usage)], atol=1e-6)


def test_round_trip_with_a_schedule():
    budget = ka.BudgetLoss(macs_target=keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.5), head_entropy=0.1)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(budget))
    assert copy.get_config() == budget.get_config()
    assert terms(copy, step=7) == terms(budget, step=7)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"token_target": 0},
            "`token_target` must be a number in (0, 1], a schedule or None. Received: token_target=0",
        ),
        (
            {"head_target": 1.2},
            "`head_target` must be a number in (0, 1], a schedule or None. Received: head_target=1.2",
        ),
        (
            {"block_target": -0.5},
            "`block_target` must be a number in (0, 1], a schedule or None. Received: block_target=-0.5",
        ),
        ({"macs_target": 0}, "`macs_target` must be in (0, 1]"),
        ({"head_weight": -1}, "`head_weight` must be 0 or a positive number up to 1e15. Received: head_weight=-1"),
        ({"token_minimum": 1.5, "token_minimum_weight": 1}, "`token_minimum` must be a number in [0, 1]"),
        ({"block_minimum": 0.5}, "`block_minimum` and `block_minimum_weight` must be given together"),
    ],
)
def test_impossible_settings_are_refused(option, message):
    with pytest.raises(ka.InputError) as error:
        ka.BudgetLoss(**option)
    assert message in str(error.value)
