import keras
import numpy as np
import pytest
from gradients import gradient_of
from harness import check_layer
from keras import ops

from keras_adavit.layers.attention import GatedAttention, attention_mask, attention_weighing_keys

INPUTS = np.random.default_rng(0).normal(size=(3, 7, 12)).astype("float32")


def random_keep(shape):
    return np.random.default_rng(1).integers(0, 2, shape).astype("float32")


def reference(layer, inputs, token_keep, head_keep):
    """Attention image by image and head by head, with only the kept tokens and heads computed."""
    kernel, bias = (ops.convert_to_numpy(value) for value in (layer.qkv.kernel, layer.qkv.bias))
    outputs = np.zeros_like(inputs)
    for image, (tokens, keep, heads) in enumerate(zip(inputs, token_keep, head_keep, strict=True)):
        q, k, v = (part.reshape(7, 3, 4) for part in np.split(tokens @ kernel + bias, 3, axis=-1))
        attended = v * (1 - heads[:, None]) if layer.partial_heads else np.zeros_like(v)
        kept = np.flatnonzero(keep)
        for head in np.flatnonzero(heads):
            scores = q[kept, head] @ k[kept, head].T / 2.0
            weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
            attended[:, head] = v[:, head]
            attended[kept, head] = weights @ v[kept, head]
        outputs[image] = attended.reshape(7, 12)
    projection, bias = (ops.convert_to_numpy(value) for value in (layer.projection.kernel, layer.projection.bias))
    return outputs @ projection + bias


def test_attention_does_what_every_layer_must():
    check_layer(GatedAttention(12, 3), INPUTS, (3, 7, 12), weights=4)
    check_layer(GatedAttention(12, 3, qkv_bias=False, partial_heads=True), INPUTS, (3, 7, 12), weights=3)


@pytest.mark.parametrize("partial_heads", [False, True], ids=["full", "partial"])
def test_kept_tokens_and_heads_are_all_that_counts(partial_heads):
    layer = GatedAttention(12, 3, partial_heads=partial_heads)
    layer.build(INPUTS.shape)
    layer.qkv.bias.assign(np.random.default_rng(2).normal(size=36))
    token_keep, head_keep = random_keep((3, 7)), random_keep((3, 3))
    found = layer(INPUTS, ops.convert_to_tensor(token_keep), ops.convert_to_tensor(head_keep))
    np.testing.assert_allclose(
        ops.convert_to_numpy(found), reference(layer, INPUTS, token_keep, head_keep), rtol=1e-4, atol=1e-5
    )


def test_all_kept_is_plain_attention():
    layer = GatedAttention(12, 3)
    dense = layer(INPUTS)
    masked = layer(INPUTS, ops.ones((3, 7)), ops.ones((3, 3)))
    np.testing.assert_allclose(ops.convert_to_numpy(dense), ops.convert_to_numpy(masked), rtol=1e-5, atol=1e-6)


def test_a_token_of_a_size_counts_as_so_many():
    """In the outputs and in the class token's attention, as if it were there that often."""
    layer, counts = GatedAttention(12, 3), [1, 3, 1, 2, 1, 1, 1]
    layer.build(INPUTS.shape)
    many = np.repeat(INPUTS, counts, axis=1)
    expected, plain = layer(ops.convert_to_tensor(many), details=("class_attention",))
    size = ops.convert_to_tensor([counts] * 3)
    found, details = layer(ops.convert_to_tensor(INPUTS), details=("class_attention", "keys"), token_size=size)
    firsts = np.cumsum([0, *counts[:-1]])
    found, expected = (ops.convert_to_numpy(outputs) for outputs in (found, expected))
    np.testing.assert_allclose(found, expected[:, firsts], rtol=1e-4, atol=1e-5)
    found, expected = (ops.convert_to_numpy(each["class_attention"]) for each in (details, plain))
    np.testing.assert_allclose(found, np.add.reduceat(expected, firsts, axis=2), rtol=1e-4, atol=1e-6)
    assert details["keys"].shape == (3, 3, 7, 4)
    assert set(plain) == {"class_attention"}


def test_mask_lets_every_token_see_itself():
    mask = ops.convert_to_numpy(attention_mask(ops.convert_to_tensor([[1.0, 0.0, 1.0]])))
    np.testing.assert_array_equal(mask[0], [[True, False, True], [False, True, False], [True, False, True]])


@pytest.mark.parametrize("partial_heads", [False, True], ids=["full", "partial"])
def test_masking_after_the_softmax_is_the_same_for_kept_tokens(partial_heads):
    layer, after, flowing = (
        GatedAttention(12, 3, partial_heads=partial_heads, **options)
        for options in ({}, {"mask_after_softmax": True}, {"mask_gradient": True})
    )
    token_keep, head_keep = random_keep((3, 7)), random_keep((3, 3))
    found = []
    for each in (layer, after, flowing):
        each.build(INPUTS.shape)
        each.set_weights(layer.get_weights())
        found.append(ops.convert_to_numpy(each(INPUTS, token_keep, head_keep, training=True)))
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4, atol=1e-5)
    kept = token_keep == 1
    np.testing.assert_allclose(found[1][kept], found[0][kept], rtol=1e-4, atol=1e-5)
    assert np.abs(found[1][~kept] - found[0][~kept]).max() > 1e-3  # a skipped token attends to nothing


def test_half_precision_softmax_ignores_skipped_tokens():
    layer = GatedAttention(12, 3, dtype="mixed_float16")
    layer.build(INPUTS.shape)
    token_keep = ops.convert_to_tensor([[1.0] * 3 + [0.0] * 4] * 3)
    changed = INPUTS.copy()
    changed[:, 3:] += 5
    one, other = (layer(ops.cast(ops.convert_to_tensor(x), "float16"), token_keep) for x in (INPUTS, changed))
    assert keras.backend.standardize_dtype(one.dtype) == "float16"
    np.testing.assert_array_equal(ops.convert_to_numpy(one)[:, :3], ops.convert_to_numpy(other)[:, :3])


def test_keys_that_weigh_change_nothing_for_kept_tokens():
    keep = random_keep((3, 7))
    plain, other = GatedAttention(12, 3), GatedAttention(12, 3, key_gradient=True)
    for layer in (plain, other):
        layer.build(INPUTS.shape)
    other.set_weights(plain.get_weights())
    expected, found = (
        ops.convert_to_numpy(layer(INPUTS, ops.convert_to_tensor(keep), training=True)) for layer in (plain, other)
    )
    kept = keep.astype(bool)
    np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-4, atol=1e-5)
    assert (np.abs(found - expected)[~kept] > 1e-3).any()  # a skipped one sees what it would take if it were kept


def test_decisions_know_what_others_learn_from_a_token():
    """The gradient to kept and to skipped keys, against differences of the formula written in NumPy."""
    generator = np.random.default_rng(0)
    query, key, value, upstream = generator.normal(size=(4, 2, 3, 5, 4)).astype("float32")
    keep = np.array([[1, 0, 1, 0, 1], [1, 1, 0, 0, 1]], "float32")

    def total(keep):
        scores = np.exp(query.astype("float64") @ key.swapaxes(-1, -2) / 2)
        weights = scores * (keep[:, None, None] * (1 - np.eye(5)) + np.eye(5))
        return np.sum(weights / weights.sum(-1, keepdims=True) @ value * upstream)

    step = 1e-5 * np.eye(5)
    expected = [(total(keep + each) - total(keep - each)) / 2e-5 for each in step]  # of both images together
    query, key, value, upstream = (ops.convert_to_tensor(array) for array in (query, key, value, upstream))
    found = gradient_of(lambda keep: ops.sum(attention_weighing_keys(query, key, value, keep) * upstream), keep)
    np.testing.assert_allclose(found.sum(axis=0), expected, rtol=1e-3, atol=1e-4)
    assert (np.abs(found[keep == 0]) > 1e-3).all()
