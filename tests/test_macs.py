import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit import macs

DEIT_SMALL = {"image_size": 224, "patch_size": 16, "width": 384, "depth": 12, "num_heads": 6}


def block(tokens, heads, attention, mlp, kind="full", **options):
    """MACs of one DeiT-S block with counts of kept tokens and heads."""
    policy = {
        "token_keep": ops.convert_to_tensor((np.arange(197) < tokens).astype("float32")[None, None]),
        "head_keep": ops.convert_to_tensor((np.arange(6) < heads).astype("float32")[None, None]),
        "block_keep": ops.convert_to_tensor(np.float32([[[attention, mlp]]])),
    }
    found = macs.block_macs(policy, width=384, num_heads=6, mlp_dim=1536, heads=kind, **options)
    return float(found[0, 0])


# The published tables, and what they leave out of the projection: t·w·(D − w).
@pytest.mark.parametrize(
    ("tokens", "heads", "attention", "mlp", "published"),
    [
        (197, 6, 1, 1, 379_147_768),
        (197, 6, 1, 0, 146_757_126),
        (197, 6, 0, 1, 232_768_893),
        (197, 6, 0, 0, 378_240),
        (100, 3, 1, 1, 118_874_878),
        (100, 3, 1, 0, 30_401_280),
        (100, 3, 0, 1, 88_851_839),
        (1, 1, 1, 1, 1_522_560),
    ],
)
def test_block_is_the_published_table_and_the_whole_projection(tokens, heads, attention, mlp, published):
    kept = 64 * heads
    assert block(tokens, heads, attention, mlp) == pytest.approx(
        published + attention * tokens * kept * (384 - kept), rel=1e-4
    )


def test_no_head_kept_costs_no_sublayer():
    norms = 2 * macs.NORM_MACS * 197 * 384
    assert block(100, 0, 1, 1) == norms


def test_partial_heads_compute_all_values_and_the_whole_mlp():
    tokens, width = 100, 384
    queries_and_keys, scores = 2 * tokens * width * 192, 2 * tokens**2 * 192
    values_and_projection, mlp = 2 * tokens * width**2, 8 * tokens * width**2
    norms = 2 * macs.NORM_MACS * 197 * width
    expected = queries_and_keys + scores + values_and_projection + mlp + norms
    assert block(tokens, 3, 1, 1, kind="partial") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("heads", [0, 2, 6])
def test_hidden_heads_leave_channels_out_of_both_layers(heads):
    difference = block(100, heads, 0, 1, mlp_heads="hidden") - block(100, heads, 0, 0, mlp_heads="hidden")
    assert difference == pytest.approx(100 * heads * 256 * (384 + 384), rel=1e-6)


def test_ungated_mlp_computes_all_tokens():
    more = block(100, 6, 1, 1, gate_mlp_tokens=False) - block(100, 6, 1, 1)
    assert more == pytest.approx(97 * 8 * 384**2, rel=1e-6)


@pytest.mark.parametrize(
    ("sizes", "giga"), [((192, 3), 1.3), ((384, 6), 4.6), ((768, 12), 17.6)], ids=["tiny", "small", "base"]
)
def test_dense_deit_costs_what_its_paper_says(sizes, giga):
    width, heads = sizes
    num_tokens = 197
    cost = macs.patch_embedding_macs(224, 16, 3, width) + macs.classifier_macs(num_tokens, width, 1000)
    cost += 12 * macs.attention_macs(num_tokens, heads, width=width, num_heads=heads)
    cost += 12 * macs.mlp_macs(num_tokens, heads, width=width, num_heads=heads, mlp_dim=4 * width, full_heads=False)
    assert cost / 1e9 == pytest.approx(giga, abs=0.05)


def test_model_reports_the_cost_of_its_own_policy():
    backbone = ka.AdaViTBackbone(
        image_size=32, patch_size=8, width=24, depth=3, num_heads=3, mlp_ratio=2, gates=ka.GateConfig()
    )
    model = ka.AdaViTClassifier(backbone, num_classes=4)
    for layer in backbone.blocks[1:]:
        layer.head_gate.bias.assign([5.0, -5.0, 5.0])
    outputs = model(np.zeros((2, 32, 32, 3), "float32"))
    kept, num_tokens, width = 16, 17, 24
    first = 4 * num_tokens * width**2 + 2 * num_tokens**2 * width + 2 * num_tokens * width * 48
    later = 4 * num_tokens * width * kept + 2 * num_tokens**2 * kept + num_tokens * 48 * (kept + width)
    gates = 3 * 16 * width + 2 * (3 + 2) * width
    rest = 16 * 192 * width + (1 + 6) * 5 * num_tokens * width + 4 * width
    expected = first + 2 * later + gates + rest
    np.testing.assert_allclose(ops.convert_to_numpy(outputs["macs"]), expected, rtol=1e-6)
    assert expected < model.dense_macs


def test_ungated_model_costs_the_dense_macs():
    backbone = ka.AdaViTBackbone(image_size=16, patch_size=8, width=16, depth=2, num_heads=2)
    model = ka.AdaViTClassifier(backbone, num_classes=4)
    outputs = model(np.zeros((3, 16, 16, 3), "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(outputs["macs"]), model.dense_macs, rtol=1e-6)
