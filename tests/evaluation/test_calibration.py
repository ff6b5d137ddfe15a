"""Thresholds for a MAC target."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.evaluation import calibration


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
    return [float(ops.convert_to_numpy(each)) for each in calibration.find_thresholds(model, calibration.GATE_KINDS)]


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


@pytest.mark.parametrize("gates", calibration.GATE_KINDS)
def test_one_kind_alone(model, images, gates):
    before = {
        name: [float(each) for each in calibration.find_thresholds(model, (name,))] for name in calibration.GATE_KINDS
    }
    start = float(np.mean(model.predict(images, verbose=0)["macs"])) / model.dense_macs
    share = ka.calibrate(model, images, 0.92 * start, gates=gates)
    assert share == pytest.approx(0.92 * start, rel=0.02)
    for name in calibration.GATE_KINDS:
        after = [float(each) for each in calibration.find_thresholds(model, (name,))]
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
