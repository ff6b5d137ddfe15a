import dataclasses
import json

import numpy as np
import pytest

import keras_adavit as ka
from keras_adavit.weights.published_names import UNFOLDED, find_gates, published_names, to_keras
from keras_adavit.weights.transfer import weights_by_path


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


CONFIGS = [
    None,
    *(
        ka.GateConfig(tokens=tokens, heads=heads, blocks=blocks, normalize_policy_input=normalize)
        for tokens in (True, False)
        for heads in ("full", "partial", None)
        for blocks in (True, False)
        for normalize in (True, False)
        if tokens or heads or blocks
    ),
]
SHAPES = {
    "patch": ("ada_step_deit_tiny_patch16_224", {"image_size": 32, "qkv_bias": True}),
    "t2t_performer": ("ada_step_t2t_vit_14_lnorm", {"image_size": 32, "qkv_bias": False}),
}
# The transformer stem's names in the T2T-ViT release; the other names of that release are those of the performer.
TRANSFORMER = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@pytest.mark.parametrize("stem", ["patch", "t2t_performer", "t2t_transformer"])
def test_every_name_a_model_can_have_is_a_published_one(stem, fixtures):
    key, sizes = SHAPES["patch" if stem == "patch" else "t2t_performer"]
    shapes = json.loads((fixtures / "state_dict_shapes.json").read_text())[key]
    published = {name for name in shapes if not name.startswith("blocks.") or int(name.split(".")[1]) < 2}
    if stem == "t2t_transformer":
        published = {name for name in published if ".attention" not in name} | {
            f"tokens_to_token.attention{number}.{layer}.{parameter}"
            for number in (1, 2)
            for layer in TRANSFORMER
            for parameter in ("weight", "bias")
            if (layer, parameter) != ("attn.qkv", "bias")
        }
    norms = {f"blocks.1.norm_policy.{parameter}" for parameter in ("weight", "bias")}
    for gates in CONFIGS:
        backbone = ka.AdaViTBackbone(
            **sizes, stem=stem, patch_size=16, width=8, depth=2, num_heads=2, token_width=4, gates=gates
        )
        alternatives = [published_names(path, stem) for path in weights_by_path(ka.AdaViTClassifier(backbone, 2))]
        names = {name for found in alternatives if found for name in found[-1]}
        assert names <= published | norms, gates
        gate_names = {name for name in published if "_select." in name}
        assert names - norms >= published - gate_names
        reads_class_token = gates is not None and (gates.heads or gates.blocks)
        assert (norms <= names) == bool(reads_class_token and gates.normalize_policy_input)
        if gates is not None and gates.tokens and gates.heads and gates.blocks:
            assert names - norms == published
        found = find_gates(names)
        assert (found is None) == (gates is None)
        if gates is not None:
            known = {**found, "heads": gates.heads} if found["heads"] else found
            assert ka.GateConfig(**known) == dataclasses.replace(
                gates,
                first_gated_block=1,
                normalize_policy_input=bool(reads_class_token and gates.normalize_policy_input),
            )


def test_a_layer_without_a_published_name_is_an_error():
    with pytest.raises(KeyError):
        published_names("block_0/attention/new_layer/kernel", "patch")


def test_gates_that_start_late_are_found():
    names = ["blocks.11.layer_select.mlp_head.bias", "blocks.3.layer_select.mlp_head.bias", "blocks.0.norm1.bias"]
    names += ["blocks.2.attn.token_select.mlp_head.weight"]
    found = find_gates(names)
    assert (found["first_gated_block"], found["first_token_gated_block"], found["heads"]) == (3, 2, None)
