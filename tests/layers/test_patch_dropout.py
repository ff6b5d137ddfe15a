import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.errors import InputError
from keras_adavit.layers.patch_dropout import PatchDropout
from keras_adavit.weights.transfer import initialize_from

TOKENS = np.tile(np.arange(11, dtype="float32")[None, :, None], (400, 1, 3))  # (B, T, D), each says its place


def test_keeps_the_class_token_and_an_ordered_share_of_the_patches():
    found = ops.convert_to_numpy(PatchDropout(0.3, seed=1)(TOKENS, training=True))
    assert found.shape == (400, 8, 3)
    places = found[:, :, 0]
    assert (places[:, 0] == 0).all()
    assert (np.diff(places, axis=1) > 0).all()
    # Every patch stays in 7 of 10 images, within four standard deviations.
    kept = np.bincount(places[:, 1:].astype(int).ravel(), minlength=11)[1:] / 400
    np.testing.assert_allclose(kept, 0.7, atol=4 * (0.7 * 0.3 / 400) ** 0.5)


def test_every_step_draws_anew_and_inference_keeps_all():
    layer = PatchDropout(0.5, seed=1)
    first, second = (ops.convert_to_numpy(layer(TOKENS, training=True)) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(TOKENS)), TOKENS)
    assert PatchDropout(0.99)(TOKENS, training=True).shape[1] == 2  # never less than one patch


def test_a_dense_model_trains_on_fewer_tokens_and_predicts_with_all():
    backbone = ka.AdaViTBackbone(16, 4, 8, 2, 2, channels=1, patch_dropout=0.5)
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 1)).astype("float32")
    assert backbone(images, training=True)["tokens"].shape == (3, 9, 8)
    assert backbone(images)["tokens"].shape == (3, 17, 8)
    restored = ka.AdaViTBackbone.from_config(backbone.get_config())
    assert restored.patch_dropout == 0.5
    # Fixed noise apart, its weights are those of any dense model of these sizes.
    plain = ka.AdaViTClassifier(ka.AdaViTBackbone(16, 4, 8, 2, 2, channels=1), 4)
    assert initialize_from(plain, ka.AdaViTClassifier(backbone, 4)) == []


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rate_is_checked(rate):
    with pytest.raises(InputError, match=rf"`patch_dropout` must be in \[0, 1\). Received: patch_dropout={rate}"):
        ka.AdaViTBackbone(16, 4, 8, 2, 2, patch_dropout=rate)


def test_gates_choose_patches_themselves():
    with pytest.raises(InputError, match="`patch_dropout` must be 0 in a model with gates"):
        ka.AdaViTBackbone(16, 4, 8, 2, 2, gates=ka.GateConfig(), patch_dropout=0.1)


def test_seeded_alike_draws_alike():
    draws = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        draws.append(ops.convert_to_numpy(PatchDropout(0.5)(TOKENS, training=True)))
    np.testing.assert_array_equal(*draws)
