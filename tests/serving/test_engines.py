"""Both engines give what the model gives, for any size of a batch."""

import keras
import numpy as np
import pytest
from gated import make_images
from served import need_server

import keras_adavit as ka


@pytest.fixture(scope="module", autouse=True)
def _extra():
    need_server()


@pytest.fixture
def engines():
    from keras_adavit.serving import engines

    return engines


def assert_like_the_model(engine, model):
    for count in (1, 3):
        images = make_images(count)
        expected = {key: keras.ops.convert_to_numpy(value) for key, value in model(images).items()}
        found = engine.run(images)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4)
    assert (engine.image_size, engine.dense_macs) == (32, model.dense_macs)
    assert list(engine.class_names) == list(model.class_names)
    assert engine.preprocessing == model.preprocessing


def test_a_model(engines, model):
    assert_like_the_model(engines.KerasEngine(model), model)


@pytest.mark.slow
def test_a_file(engines, model, onnx_file):
    engine = engines.OnnxEngine(onnx_file)
    assert_like_the_model(engine, model)
    assert engine.budgets == {None: None}


def test_a_model_without_preprocessing_is_refused(engines, model, monkeypatch):
    monkeypatch.setattr(model, "preprocessing", None)
    with pytest.raises(ka.InputError, match="must know the `preprocessing`"):
        engines.KerasEngine(model)


def test_every_budget_has_its_thresholds(engines, model):
    thresholds = engines.KerasEngine(model).read_thresholds()
    engine, images = engines.KerasEngine(model), make_images(16)
    shares = {macs: engine.add_budget(macs, images) for macs in (0.4, 0.6)}
    for macs in (0.6, 0.4):
        assert engine.run(images, macs)["macs"].mean() / model.dense_macs == pytest.approx(shares[macs], abs=1e-3)
    engine.use(None)
    assert engine.read_thresholds() == thresholds
