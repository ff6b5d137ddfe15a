import io

import numpy as np
import pytest
from gated import make_images, make_model
from keras import ops
from rich.console import Console

import keras_adavit as ka
from keras_adavit.evaluation.evaluate import evaluate
from keras_adavit.evaluation.tables import print_comparison, print_timing
from keras_adavit.evaluation.timing import Timing, copy, measure, time_in_turns
from keras_adavit.gating.policy import POLICY_KEYS

TIMING = Timing(
    dense=10.0, masked=8.0, packed=25.0, macs_share=0.4, images=64, batch_size=32, rounds=5, backend="torch"
)


def arrays(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def test_functions_take_turns():
    calls = []
    found = time_in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert calls == ["a", "b"] * 4
    assert found.keys() == {"a", "b"}
    assert min(found.values()) >= 0


@pytest.mark.parametrize("execution", ["masked", "packed"])
def test_every_speed_is_measured_and_the_model_stays_as_it_is(execution):
    model, images = make_model(drop_path=0.1), make_images(7)
    model.execution = execution
    model.compile("sgd", "mse", run_eagerly=True)
    before, weights = arrays(model(images)), model.get_weights()
    optimizer, loss = model.optimizer, model.loss
    found = measure(model, images, batch_size=3, rounds=1)
    assert min(found.dense, found.masked, found.packed) > 0
    assert (found.images, found.batch_size, found.rounds) == (6, 3, 1)
    assert found.macs_share == pytest.approx(before["macs"][:6].mean() / model.dense_macs, rel=1e-5)
    assert model.execution == execution
    assert (model.optimizer, model.loss, model.run_eagerly) == (optimizer, loss, True)
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, values in arrays(model(images)).items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize(
    ("gates", "stem"),
    [(ka.GateConfig(heads="partial"), "t2t_performer"), (ka.GateConfig(normalize_policy_input=True), "patch")],
)
def test_copies_have_the_same_weights(gates, stem):
    model, images = make_model(gates, stem), make_images(4)
    for block in model.backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.threshold.assign(0.4)  # as after a calibration
    adaptive, dense = copy(model, model.backbone.gates), copy(model, gates=None)
    expected = arrays(model(images))
    for key in ("logits", "macs", *POLICY_KEYS):
        np.testing.assert_allclose(arrays(adaptive(images))[key], expected[key], rtol=1e-5, atol=1e-5)
    opened = arrays(model(images, policy=ka.OpenPolicy()))["logits"]
    np.testing.assert_allclose(arrays(dense(images))["logits"], opened, rtol=1e-3, atol=1e-4)
    assert arrays(dense(images))["macs"] == pytest.approx(model.dense_macs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "`model` must be an `AdaViTClassifier`"),
        ({"images": make_images(2, size=16)}, "`images` must be float images"),
        ({"images": make_images(0)}, "`images` must have at least one image. Received: none"),
        ({"batch_size": 0}, "`batch_size` must be 1 or more"),
        ({"rounds": 0}, "`rounds` must be 1 or more"),
    ],
)
def test_what_cannot_be_timed(arguments, message):
    with pytest.raises(ka.InputError) as error:
        measure(**{"model": make_model(depth=2), "images": make_images(2), **arguments})
    assert message in str(error.value)


def test_a_dense_model_has_nothing_to_be_compared_with():
    model = make_model(depth=2)
    with pytest.raises(ka.InputError, match="`model` must have gates"):
        measure(copy(model, gates=None), make_images(2))


def rows(show):
    """The words of every row of what is printed."""
    out = io.StringIO()
    show(Console(file=out, width=80))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    return [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]


def test_table():
    found = rows(lambda console: print_timing(TIMING, console))
    assert "On torch: 64 images in batches of 32, medians of 5 turns" in found
    for row in ("dense 10.0 1.00 1.000", "masked 8.0 0.80 0.400", "packed 25.0 2.50 0.400"):
        assert row in found


def test_a_comparison_may_have_a_timing():
    model, images = make_model(depth=2), make_images(3)
    evaluation = evaluate(model, [(images, np.arange(3))])
    both = {"dense": evaluation, "adaptive": evaluation}
    found = rows(lambda console: print_comparison(both, {}, console, timing=TIMING))
    assert "images a second 10.0 25.0 packed, 8.0 masked" in found
    assert not any("images a second" in row for row in rows(lambda console: print_comparison(both, {}, console)))
