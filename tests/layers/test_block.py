import numpy as np
import pytest
from harness import check_layer
from keras import ops

from keras_adavit.gating.config import GateConfig
from keras_adavit.layers.block import GatedBlock
from keras_adavit.layers.mlp import GatedMLP
from keras_adavit.layers.patch_embedding import PatchEmbedding

INPUTS = np.random.default_rng(0).normal(size=(3, 5, 12)).astype("float32")


def make_block(index=1, **gates):
    block = GatedBlock(index, 12, 3, 24, GateConfig(**gates))
    block.build(INPUTS.shape)
    return block


def run(block):
    outputs, decisions = block(ops.convert_to_tensor(INPUTS))
    return ops.convert_to_numpy(outputs), {name: ops.convert_to_numpy(value) for name, value in decisions.items()}


def test_block_does_what_every_layer_must():
    dense = 4 + 4 + 4  # two normalisations, attention, MLP
    gates = 3 * 2  # kernel and bias of each
    check_layer(GatedBlock(0, 12, 3, 24), INPUTS, (3, 5, 12), weights=dense)
    options = {"mlp_heads": "hidden", "mask_after_softmax": True, "attention_gradient": True, "initial_bias": 0.1}
    for config in (GateConfig(), GateConfig(**options, mlp_token_gradient=False), GateConfig(key_gradient=True)):
        check_layer(GatedBlock(1, 12, 3, 24, config), INPUTS, (3, 5, 12), weights=dense + gates)


def test_mlp_and_stem_do_what_every_layer_must():
    check_layer(GatedMLP(12, 24, 3), INPUTS, (3, 5, 12), weights=4)
    check_layer(GatedMLP(12, 24, 3, head_channels="hidden"), INPUTS, (3, 5, 12), weights=4)
    check_layer(PatchEmbedding(4, 6), np.ones((2, 8, 8, 3), "float32"), (2, 4, 6), weights=2)


def test_patches_are_in_reading_order():
    stem = PatchEmbedding(2, 4)
    stem.build((None, 4, 4, 1))
    stem.projection.kernel.assign(np.eye(4))
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(stem(image))[0], [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    )


def test_skipped_sublayers_leave_the_input():
    block = make_block()
    block.block_gate.bias.assign([-5.0, -5.0])
    outputs, decisions = run(block)
    np.testing.assert_array_equal(outputs, INPUTS)
    np.testing.assert_array_equal(decisions["block_keep"], np.zeros((3, 2)))


def test_skipped_tokens_leave_the_input():
    block = make_block()
    block.token_gate.bias.assign([-5.0])
    outputs, decisions = run(block)
    np.testing.assert_array_equal(outputs[:, 1:], INPUTS[:, 1:])
    assert (outputs[:, 0] != INPUTS[:, 0]).all()
    np.testing.assert_array_equal(decisions["token_keep"], [[1, 0, 0, 0, 0]] * 3)


def test_mlp_of_skipped_tokens_runs_where_tokens_do_not_gate_it():
    block = make_block(gate_mlp_tokens=False)
    block.token_gate.bias.assign([-5.0])
    outputs, _ = run(block)
    assert (outputs != INPUTS).all()


def test_full_heads_silence_the_mlps_input_channels_and_partial_ones_do_not():
    for heads, changes in (("full", False), ("partial", True)):
        block = make_block(heads=heads)
        block.block_gate.bias.assign([-5.0, 5.0])
        block.head_gate.bias.assign([-5.0, -5.0, -5.0])
        before, _ = run(block)
        block.mlp.expand.kernel.assign(block.mlp.expand.kernel * 2)
        after, _ = run(block)
        assert (np.abs(after - before).max() > 1e-3) == changes


@pytest.mark.parametrize("head_channels", ["input", "hidden"])
def test_a_skipped_head_of_the_mlp_counts_nothing(head_channels):
    """As if the weights of its channels were zero: rows of the first layer's kernel, or columns and biases."""
    mlp = GatedMLP(12, 24, 3, head_channels)
    mlp.build(INPUTS.shape)
    mlp.expand.bias.assign(np.random.default_rng(1).normal(size=24))
    found = ops.convert_to_numpy(mlp(INPUTS, ops.reshape(ops.convert_to_tensor([1.0, 0.0, 1.0]), (1, 1, 3, 1))))
    kernel, bias = (ops.convert_to_numpy(weight).copy() for weight in (mlp.expand.kernel, mlp.expand.bias))
    if head_channels == "input":
        kernel[4:8] = 0
    else:
        kernel[:, 8:16] = bias[8:16] = 0
    mlp.expand.kernel.assign(kernel)
    mlp.expand.bias.assign(bias)
    np.testing.assert_allclose(found, ops.convert_to_numpy(mlp(INPUTS)), rtol=1e-5, atol=1e-6)


def test_evaluation_masks_before_the_softmax():
    plain, other = make_block(), make_block(mask_after_softmax=True, attention_gradient=True, mlp_token_gradient=False)
    for block in (plain, other):
        block.token_gate.kernel.assign(np.random.default_rng(1).normal(size=(12, 1)))
        block.token_gate.bias.assign([0.0])
    other.set_weights(plain.get_weights())
    (expected, decisions), (found, _) = run(plain), run(other)
    assert 0 < decisions["token_keep"][:, 1:].mean() < 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["token", "head", "block"])
def test_ungated_kinds_are_all_ones_with_zero_logits(kind):
    off = {"token": {"tokens": False}, "head": {"heads": None}, "block": {"blocks": False}}[kind]
    _, decisions = run(make_block(**off))
    assert (decisions[f"{kind}_keep"] == 1).all()
    assert (decisions[f"{kind}_logits"] == 0).all()


def test_drop_path_spares_gated_sublayers():
    gated = GatedBlock(1, 12, 3, 24, GateConfig(), drop_path=0.9)
    tokens_only = GatedBlock(1, 12, 3, 24, GateConfig(heads=None, blocks=False), drop_path=0.9)
    assert gated.drop.rate == 0.0
    assert tokens_only.drop.rate == 0.9
    many = np.repeat(INPUTS[:1], 64, axis=0)
    outputs = ops.convert_to_numpy(tokens_only(ops.convert_to_tensor(many), training=True)[0])
    untouched = (outputs == many).all(axis=(1, 2)).mean()
    assert 0.6 < untouched < 0.95  # 0.81 of the images skip both branches
