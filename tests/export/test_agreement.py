"""What was exported packed gives what the model gives masked: any batch, broken images among the others."""

import keras
import numpy as np
import pytest
from gated import make_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_adavit as ka

PROPERTY = {"max_examples": 25, "deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
BATCHES = st.sampled_from([0, 1, 2, 3, 7, 12])
BROKEN = st.sampled_from([0.0, np.nan, np.inf, -np.inf])
SEEDS = st.integers(0, 2**31 - 1)


def draw_images(batch, broken, seed):
    """Images of many contrasts, so that gates decide differently; some hold one value `broken`, unless that is 0."""
    rng = np.random.default_rng(seed)
    images = (rng.normal(size=(batch, 32, 32, 3)) * rng.uniform(0.2, 3.0, size=(batch, 1, 1, 1))).astype("float32")
    chosen = rng.random(batch) < (0.4 if broken else 0.0)
    images[chosen, rng.integers(32), rng.integers(32), rng.integers(3)] = broken
    return images, chosen


def masked(model, images):
    """The model's own outputs as arrays; Keras predicts no empty batch."""
    return {key: keras.ops.convert_to_numpy(value) for key, value in model(images).items()}


def load_onnx(path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


def load_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    run = lambda images: {key: value.numpy() for key, value in serve(tf.constant(images)).items()}  # noqa: E731
    run.owner = loaded  # its variables live as long as it does
    return run


LOADERS = {"onnx": load_onnx, "saved_model": load_saved_model}


@pytest.fixture(scope="module", params=LOADERS)
def exported(request, tmp_path_factory):
    """A model, and a function that runs what was exported of it."""
    if request.param == "onnx":
        pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    model, path = make_model(), tmp_path_factory.mktemp("exported") / "model"
    ka.export(model, path, request.param)
    return model, LOADERS[request.param](path)


@pytest.mark.slow
@settings(**PROPERTY)
@given(batch=BATCHES, broken=BROKEN, seed=SEEDS)
def test_float32(exported, batch, broken, seed):
    model, run = exported
    images, chosen = draw_images(batch, broken, seed)
    expected, found = masked(model, images), run(images)
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(np.isnan(found["logits"]).any(axis=1), chosen)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def exported_in_bfloat16(tmp_path_factory):
    keras.utils.set_random_seed(0)  # with other weights a decision may be close in every image
    model, path = make_model(depth=2, dtype="mixed_bfloat16"), tmp_path_factory.mktemp("exported") / "model"
    ka.export(model, path)
    return model, load_saved_model(path)


@pytest.mark.slow
@settings(**PROPERTY)
@given(batch=BATCHES, broken=BROKEN, seed=SEEDS)
def test_bfloat16(exported_in_bfloat16, batch, broken, seed):
    """Rounding may turn a decision of a few images; the others agree."""
    model, run = exported_in_bfloat16
    images, chosen = draw_images(batch, broken, seed)
    expected, found = masked(model, images), run(images)
    np.testing.assert_array_equal(np.isnan(found["logits"]).any(axis=1), chosen)
    agree = found["macs"] == expected["macs"]
    assert agree.sum() >= 0.7 * batch - 1
    agree &= ~chosen
    difference = np.linalg.norm(found["logits"][agree] - expected["logits"][agree])
    assert difference <= 0.05 * np.linalg.norm(expected["logits"][agree])
