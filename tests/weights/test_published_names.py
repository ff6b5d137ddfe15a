import numpy as np
import pytest

from keras_adavit.weights.published_names import UNFOLDED, to_keras


@pytest.mark.parametrize("layer", UNFOLDED)
def test_weights_that_read_unfolded_patches_are_reordered(layer):
    rng = np.random.default_rng(0)
    positions = UNFOLDED[layer]
    patches = rng.normal(size=(4, 3, positions))  # channels first, as `torch.nn.Unfold` has them
    ours = patches.transpose(0, 2, 1).reshape(4, -1)
    patches = patches.reshape(4, -1)
    weight_name, bias_name = (f"tokens_to_token.{layer}.{parameter}" for parameter in ("weight", "bias"))
    if layer.endswith("norm1"):
        scale = rng.normal(size=3 * positions)
        for name in (weight_name, bias_name):
            np.testing.assert_allclose((ours * to_keras(name, scale)).sum(axis=1), (patches * scale).sum(axis=1))
    else:
        weight = rng.normal(size=(6, 3 * positions))
        np.testing.assert_allclose(ours @ to_keras(weight_name, weight), patches @ weight.T)
        bias = rng.normal(size=3 * positions)
        np.testing.assert_array_equal(to_keras(bias_name, bias), bias)


@pytest.mark.parametrize("name", ["blocks.0.norm1.weight", "blocks.0.attn.qkv.bias", "norm.weight"])
def test_other_vectors_stay_as_they_are(name):
    array = np.arange(147.0)
    np.testing.assert_array_equal(to_keras(name, array), array)
