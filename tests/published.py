"""Weights under the published names, moved into a model by hand."""

import numpy as np

BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.projection",
    "mlp.fc1": "mlp.expand",
    "mlp.fc2": "mlp.reduce",
    "attn.token_select.mlp_head": "token_gate",
    "head_select.mlp_head": "head_gate",
    "layer_select.mlp_head": "block_gate",
}


def to_keras(name, array):
    """A published linear layer or patch convolution in the layout of Keras."""
    if name == "patch_embed.proj.weight":  # (D, C, p, p) → (p·p·C, D)
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    return array.T if name.endswith("weight") and array.ndim == 2 else array


def linear(layer, name, arrays):
    kernel = layer.gamma if hasattr(layer, "gamma") else layer.kernel
    bias = layer.beta if hasattr(layer, "beta") else layer.bias
    return [(kernel, to_keras(f"{name}.weight", arrays[f"{name}.weight"])), (bias, arrays[f"{name}.bias"])]


def pair(model, arrays):
    """Pairs every variable of a gated DeiT with the array of the same meaning, gradients as well as weights."""
    backbone = model.backbone
    pairs = [(backbone.class_token, arrays["cls_token"])]
    if "pos_embed" in arrays:
        pairs.append((backbone.position, arrays["pos_embed"]))
    pairs += linear(backbone.stem.projection, "patch_embed.proj", arrays)
    for index, block in enumerate(backbone.blocks):
        prefix = f"blocks.{index}."
        for published, path in BLOCK.items():
            layer = block
            for part in path.split("."):
                layer = getattr(layer, part)
            if layer is not None:
                pairs += linear(layer, prefix + published, arrays)
        for kind in ("weight", "bias"):
            parts = [to_keras(f".{kind}", arrays[f"{prefix}attn.{name}.{kind}"]) for name in ("query", "key", "value")]
            variable = block.attention.qkv.kernel if kind == "weight" else block.attention.qkv.bias
            pairs.append((variable, np.concatenate(parts, axis=-1)))
    return pairs + linear(backbone.norm, "norm", arrays) + linear(model.head, "head", arrays)
