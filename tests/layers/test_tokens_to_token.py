import keras
import numpy as np
import pytest
from harness import check_layer
from keras import ops

import keras_adavit as ka
from keras_adavit import macs
from keras_adavit.layers import token_attention
from keras_adavit.layers.token_attention import TokenPerformer, TokenTransformer
from keras_adavit.layers.tokens_to_token import SPLITS, TokensToToken, soft_split

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


@pytest.mark.parametrize("split", [*SPLITS[:2], (4, 4, 0), (4, 2, 1)], ids=str)
@pytest.mark.parametrize("channels", [1, 5])
def test_soft_split_is_torch_unfold_with_channels_last(split, channels):
    torch = pytest.importorskip("torch")
    size, stride, padding = split
    grid = normal(2, 16, 16, channels)
    found = ops.convert_to_numpy(soft_split(ops.convert_to_tensor(grid), *split))
    unfold = torch.nn.Unfold(size, stride=stride, padding=padding)
    expected = unfold(torch.from_numpy(grid.transpose(0, 3, 1, 2).copy())).numpy()  # (B, C·size², patches)
    expected = expected.reshape(2, channels, size**2, -1).transpose(0, 3, 2, 1).reshape(found.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("kind", "weights"), [("t2t_performer", 26), ("t2t_transformer", 24)])
def test_stem(kind, weights):
    check_layer(TokensToToken(kind, 8, 12), normal(2, 32, 32, 3), (2, 4, 12), weights)


@pytest.mark.parametrize("layer", [TokenPerformer, TokenTransformer])
def test_token_layer(layer):
    check_layer(layer(8), normal(2, 9, 27), (2, 9, 8), 12 if layer is TokenPerformer else 11)


def test_performer_drops_in_training_and_the_transformer_does_not():
    inputs = normal(2, 9, 27)
    for layer, drops in ((TokenPerformer(8), True), (TokenTransformer(8), False)):
        training = ops.convert_to_numpy(layer(inputs, training=True))
        assert (training != ops.convert_to_numpy(layer(inputs))).any() == drops


def test_performer_stays_in_float32():
    layer = TokenPerformer(8, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(ops.cast(normal(1, 4, 27), "bfloat16")).dtype) == "float32"


def test_features_are_orthogonal_and_fixed():
    layer = TokenPerformer(16)
    layer.build((None, 4, 27))
    features = ops.convert_to_numpy(layer.features)
    np.testing.assert_allclose(features @ features.T, 8 * np.eye(8), atol=1e-4)
    assert not layer.features.trainable


def test_linear_attention_approximates_the_softmax_kernel():
    rng = np.random.default_rng(0)  # of its own: which numbers it sees must not depend on the tests before it
    query, key, value = (rng.normal(size=(1, 20, 8), scale=0.5).astype("float32") for _ in range(3))
    features = rng.normal(size=(65536, 8)).astype("float32")
    found = token_attention.linear_attention(query, key, value, ops.convert_to_tensor(features))
    scores = np.exp(query @ key.transpose(0, 2, 1))
    expected = scores / scores.sum(axis=-1, keepdims=True) @ value
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=0.1)


def test_transformer_divides_scores_by_the_root_of_the_input_width():
    layer = TokenTransformer(4)
    qkv, width = normal(1, 6, 12), 27
    query, key, value = np.split(qkv, 3, axis=-1)
    scores = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(width))
    attended, skip = layer.attend(ops.convert_to_tensor(qkv), width)
    expected = scores / scores.sum(axis=-1, keepdims=True) @ value
    np.testing.assert_allclose(ops.convert_to_numpy(attended), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(skip), value)


@pytest.mark.parametrize("kind", ["t2t_performer", "t2t_transformer"])
def test_classifier_with_the_stem_trains_every_weight(kind):
    backbone = ka.AdaViTBackbone(
        image_size=32, width=12, depth=2, num_heads=2, stem=kind, token_width=8, gates=ka.GateConfig()
    )
    model = ka.AdaViTClassifier(backbone, num_classes=3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), budget=ka.BudgetLoss())
    before = [ops.convert_to_numpy(variable) for variable in backbone.stem.weights]
    model.fit(normal(8, 32, 32, 3), np.arange(8) % 3, verbose=0)
    for variable, value in zip(backbone.stem.weights, before, strict=True):
        changed = (ops.convert_to_numpy(variable) != value).any()
        assert changed == variable.trainable, variable.path
    assert ka.AdaViTBackbone.from_config(backbone.get_config()).get_config() == backbone.get_config()


def test_performer_macs():
    tokens, width, inputs, features = 64, 8, 147, 4
    first = tokens * (inputs * 24 + 2 * features * width + features + 2 * features * width + width**2 + 2 * width**2)
    first += macs.NORM_MACS * tokens * (inputs + width)
    tokens, inputs = 16, 72
    second = tokens * (inputs * 24 + 2 * features * width + features + 2 * features * width + 3 * width**2)
    second += macs.NORM_MACS * tokens * (inputs + width)
    last = 4 * 72 * 12
    assert macs.tokens_to_token_macs(32, 3, 12, token_width=width, performer=True) == first + second + last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stem": "linear"},
            "`stem` must be 'patch', 'conv', 't2t_performer' or 't2t_transformer'. Received: stem='linear'",
        ),
        ({"patch_size": 8}, "`patch_size` must be 16 with a tokens-to-token stem. Received: patch_size=8"),
        ({"token_width": 0}, "`token_width` must be 1 or more, a whole number. Received: token_width=0"),
    ],
)
def test_impossible_stems_are_refused(change, message):
    with pytest.raises(ka.InputError) as error:
        ka.AdaViTBackbone(**{"image_size": 32, "stem": "t2t_performer", **change})
    assert message in str(error.value)
