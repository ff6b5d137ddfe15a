"""Thresholds for a target of MACs or of time. But for one test, time is a function of the thresholds."""

import contextlib
import re
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.evaluation import calibration
from keras_adavit.evaluation.thresholds import GATE_KINDS, find_thresholds
from keras_adavit.evaluation.timing import copy


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(48, 32, 32, 3)).astype("float32")


@pytest.fixture
def model():
    gates = ka.GateConfig()
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(32, 8, 24, 3, 3, 2.0, gates=gates), 5)
    rng = np.random.default_rng(1)
    for block in model.backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.kernel.assign(rng.normal(size=gate.kernel.shape))
    return model


def thresholds(model):
    return [float(ops.convert_to_numpy(each)) for each in find_thresholds(model, GATE_KINDS)]


def test_targets_are_hit_and_monotone(model, images):
    reached = [ka.calibrate(model, images, target) for target in (0.35, 0.5, 0.7, 0.9, 0.5)]
    np.testing.assert_allclose(reached, [0.35, 0.5, 0.7, 0.9, 0.5], rtol=0.01)
    assert reached[1] == pytest.approx(reached[4], rel=2e-3)  # what came between leaves no trace
    outputs = model.predict(images, verbose=0)
    assert outputs["macs"].mean() / model.dense_macs == pytest.approx(reached[4], rel=1e-4)


def test_absolute_target(model, images):
    assert ka.calibrate(model, images, 0.6 * model.dense_macs) == pytest.approx(0.6, rel=0.01)


def test_thresholds_are_saved(model, images, tmp_path):
    share = ka.calibrate(model, images, 0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.predict(images, verbose=0)["macs"].mean() / loaded.dense_macs == pytest.approx(share, rel=1e-4)


def test_kinds_that_the_model_has(images):
    gates = ka.GateConfig(heads=None, blocks=False)
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(32, 8, 24, 3, 3, 2.0, gates=gates), 5)
    for block in model.backbone.blocks:
        block.token_gate.kernel.assign(np.random.default_rng(1).normal(size=block.token_gate.kernel.shape))
    assert ka.calibrate(model, images, 0.5) == pytest.approx(0.5, rel=0.01)
    with pytest.raises(ka.InputError, match="'heads', of which it has none"):
        ka.calibrate(model, images, 0.5, gates="heads")


@pytest.mark.parametrize("gates", GATE_KINDS)
def test_one_kind_alone(model, images, gates):
    before = {name: [float(each) for each in find_thresholds(model, (name,))] for name in GATE_KINDS}
    start = float(np.mean(model.predict(images, verbose=0)["macs"])) / model.dense_macs
    share = ka.calibrate(model, images, 0.92 * start, gates=gates)
    assert share == pytest.approx(0.92 * start, rel=0.02)
    for name in GATE_KINDS:
        after = [float(each) for each in find_thresholds(model, (name,))]
        assert (after != before[name]) == (name == gates)


def test_batches_and_labels(model, images):
    from_array = ka.calibrate(model, images, 0.5)
    pairs = [(images[start : start + 20], np.zeros(20)) for start in (0, 20, 40)]
    assert ka.calibrate(model, pairs, 0.5) == pytest.approx(from_array, rel=0.01)
    import tensorflow as tf

    assert ka.calibrate(model, tf.data.Dataset.from_tensor_slices(images).batch(20), 0.5) == pytest.approx(
        0.5, rel=0.01
    )


def test_gates_that_switch_together(model):
    """All images alike: MACs jump, and the nearest is taken, with a warning."""
    one = np.zeros((4, 32, 32, 3), "float32")
    for block in model.backbone.blocks:
        block.token_gate.kernel.assign(np.zeros(block.token_gate.kernel.shape))
    with pytest.warns(UserWarning, match="switch at once"):
        share = ka.calibrate(model, one, 0.5)
    assert share == pytest.approx(float(model.predict(one, verbose=0)["macs"][0]) / model.dense_macs, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"macs": 0.01}, "within the reach of these gates"),
        ({"macs": 0}, "`macs` must be positive, a finite number. Received: macs=0"),
        ({"gates": "patches"}, "`gates` must be some of"),
        ({"gates": ()}, "`gates` must be some of"),
        ({"batch_size": 0}, "`batch_size` must be 1 or more"),
        ({"macs": None}, "One of `macs` and `milliseconds` must be given. Received: macs=None, milliseconds=None"),
        ({"milliseconds": 2}, "One of `macs` and `milliseconds` must be given. Received: macs=0.5, milliseconds=2"),
        ({"macs": None, "milliseconds": -1}, "`milliseconds` must be positive, a finite number"),
        (
            {"dataset": np.zeros((2, 16, 16, 3), "float32")},
            r"float images \(B, 32, 32, 3\), .* Received: float32 of the shape \(2, 16, 16, 3\)",
        ),
        ({"dataset": []}, "`dataset` must have images"),
        ({"dataset": iter([np.zeros((2, 32, 32, 3), "float32")])}, "can be iterated again"),
    ],
)
def test_bad_input_changes_nothing(model, images, arguments, message):
    before = thresholds(model)
    with pytest.raises(ka.InputError, match=message):
        ka.calibrate(model, **{"dataset": images, "macs": 0.5, **arguments})
    assert thresholds(model) == before


def test_models_without_such_gates(images):
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(32, 8, 24, 2, 3, 2.0), 5)
    with pytest.raises(ka.InputError, match="of which it has none"):
        ka.calibrate(model, images, 0.5)
    with pytest.raises(ka.InputError, match="`model` must be an `AdaViTClassifier`"):
        ka.calibrate(keras.Sequential(), images, 0.5)


DENSE_TIME = 2.0  # milliseconds an image


def true_time(model):
    """A time that is known: from all of the dense model's to a fifth of it, as the thresholds close the gates."""
    return DENSE_TIME * (1 - 0.8 * thresholds(model)[0])


@pytest.fixture
def slow_at(monkeypatch):
    """Replaces the clock by true times, each multiplied by a factor that a function of its number gives."""

    def replace(factor):
        times = []

        def measure(model, timed):
            times.append(true_time(model) * factor(len(times)))
            return times[-1]

        monkeypatch.setattr(calibration, "measure_milliseconds", measure)
        return times

    return replace


@pytest.mark.parametrize("seed", range(3))
def test_a_time_is_hit_in_spite_of_noise(model, images, slow_at, seed):
    rng = np.random.default_rng(seed)
    times = slow_at(lambda number: rng.normal(1, 0.02))
    for target in (0.9, 1.5):
        del times[:]
        reached = ka.calibrate(model, images, milliseconds=target)
        assert reached == times[-1] == pytest.approx(target, rel=calibration.TIME_TOLERANCE)
        assert true_time(model) == pytest.approx(target, rel=0.1)


def test_one_time_that_is_far_off_misleads_the_search_but_once(model, images, slow_at):
    times = slow_at(lambda number: 3 if number == 2 else 1)  # the first step, which then goes the wrong way
    reached = ka.calibrate(model, images, milliseconds=1.2)
    assert len(times) > calibration.TIME_STEPS
    assert reached == pytest.approx(1.2, rel=calibration.TIME_TOLERANCE)
    assert true_time(model) == pytest.approx(reached, rel=1e-3)


def test_a_time_that_is_not_confirmed_is_told(model, images, slow_at):
    times = slow_at(lambda number: 1 + number % 2)
    with pytest.warns(
        UserWarning, match=r"The nearest to 1\.2000 milliseconds an image is .*, more than 5% away: there"
    ):
        reached = ka.calibrate(model, images, milliseconds=1.2)
    assert reached in times
    assert len(times) <= 2 + calibration.SEARCHES * (calibration.TIME_STEPS - 1)


@pytest.mark.parametrize("target", [0.3, 2.2])
def test_times_out_of_reach(model, images, slow_at, target):
    slow_at(lambda number: 1)
    before = thresholds(model)
    with pytest.raises(ka.InputError) as error:
        ka.calibrate(model, images, milliseconds=target)
    message = (
        r"`milliseconds` must be within the reach of these gates, 0\.4\d+ to 2\.0\d+ milliseconds an image\. Received"
    )
    assert re.match(message, str(error.value))
    assert thresholds(model) == before


def test_an_interruption_changes_nothing(model, images, slow_at):
    def interrupt(number):
        if number == 4:
            raise KeyboardInterrupt
        return 1

    slow_at(interrupt)
    before = thresholds(model)
    with pytest.raises(KeyboardInterrupt):
        ka.calibrate(model, images, milliseconds=1.2)
    assert thresholds(model) == before


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(32, [32, 32]), (1, [1] * 64), (20, [20, 20, 20]), (100, [100]), (500, [150])]
)
def test_what_is_timed_are_whole_batches(model, batch_size, sizes):
    many = np.zeros((150, 32, 32, 3), "float32")
    pairs = [(many[start : start + 50], np.zeros(50)) for start in (0, 50, 100)]
    for dataset in (many, pairs):
        assert [len(batch) for batch in calibration.timed_batches(model, dataset, batch_size)] == sizes


def test_the_real_clock(model, images, monkeypatch):
    """Whatever the machine does, there is a time; and the model keeps its own execution and compilation."""
    monkeypatch.setattr(calibration, "TURNS", 1)
    monkeypatch.setattr(calibration, "TIME_STEPS", 4)
    model.compile("sgd", "mse", run_eagerly=True)
    before, found = thresholds(model), None
    timed = calibration.timed_batches(model, images[:4], 4)
    usual = calibration.measure_milliseconds(copy(model, model.backbone.gates), timed)
    assert usual > 0
    with warnings.catch_warnings(), contextlib.suppress(ka.InputError):
        warnings.simplefilter("ignore")
        found = ka.calibrate(model, images[:4], milliseconds=usual, batch_size=4)
    assert found > 0 if found is not None else thresholds(model) == before
    assert (model.execution, model.run_eagerly) == ("masked", True)
