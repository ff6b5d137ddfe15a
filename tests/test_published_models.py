"""The published models reproduce what the published code computed from the same checkpoints."""

import keras
import numpy as np
import pytest
from keras import ops
from published import MICRO, micro_model

import keras_adavit as ka

pytest.importorskip("torch")
POLICY = {"token_keep": "token_select", "head_keep": "head_select", "block_keep": "layer_select"}


@pytest.fixture(scope="module", params=MICRO)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def golden(name, fixtures):
    return np.load(fixtures / f"{name}.npz")


@pytest.fixture(scope="module")
def images(golden):
    return golden["images_nchw"].transpose(0, 2, 3, 1)


def load(name, fixtures, **changes):
    model = micro_model(name, **changes)
    ka.load_torch_checkpoint(model, fixtures / f"{name}.pth")
    return model


@pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
def test_logits_and_every_decision(name, golden, images, fixtures, eager):
    model = load(name, fixtures)
    model.compile(run_eagerly=eager)
    outputs = model.predict(images, verbose=0)
    np.testing.assert_allclose(outputs["logits"], golden["logits"], rtol=1e-4, atol=1e-4)
    for ours, published in POLICY.items():
        gated = golden[published].shape[1] if published in golden.files else 0
        ungated = model.backbone.depth - gated
        assert (outputs[ours][:, :ungated] == 1).all()
        if gated:
            np.testing.assert_array_equal(outputs[ours][:, ungated:], golden[published])
            assert 0 < golden[published].mean() < 1  # there is something to decide


def test_output_of_every_block(name, golden, images, fixtures):
    if "hidden" not in golden.files:
        pytest.skip("the published code gave no hidden states of this model")
    backbone = load(name, fixtures).backbone
    tokens = backbone.stem(ops.convert_to_tensor(images))
    class_token = ops.broadcast_to(backbone.class_token, (len(images), 1, backbone.width))
    tokens = ops.concatenate([class_token, tokens], axis=1) + backbone.position
    for index, block in enumerate(backbone.blocks):
        tokens, _ = block(tokens)
        expected = golden["hidden"][:, index]
        np.testing.assert_allclose(ops.convert_to_numpy(tokens), expected, rtol=1e-4, atol=1e-4, err_msg=str(index))


@pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
def test_bfloat16_is_close(name, golden, images, fixtures, eager):
    model = load(name, fixtures, dtype="mixed_bfloat16")
    model.compile(run_eagerly=eager)
    # Decisions are steps: one that rounding turns is an error of 10 to 20 % here.
    error = np.linalg.norm(model.predict(images, verbose=0)["logits"] - golden["logits"])
    assert error < 0.02 * np.linalg.norm(golden["logits"])


def test_saved_model_is_the_same(name, golden, images, fixtures, tmp_path):
    load(name, fixtures).save(tmp_path / "model.keras")
    outputs = keras.saving.load_model(tmp_path / "model.keras").predict(images, verbose=0)
    np.testing.assert_allclose(outputs["logits"], golden["logits"], rtol=1e-4, atol=1e-4)
