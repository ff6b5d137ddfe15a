"""What the published files call a weight, and how they lay it out. Their words appear here alone."""

import re

import numpy as np

from keras_adavit.layers.tokens_to_token import SPLITS

# Whole paths, so that no name is found inside another one; a layer without a place here is a KeyError.
LAYERS = {"norm": "norm", "head": "head"}
ARRAYS = {"class_token": "cls_token", "position": "pos_embed"}
BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "policy_norm": "norm_policy",
    "block_gate": "layer_select.mlp_head",
    "head_gate": "head_select.mlp_head",
    "token_gate": "attn.token_select.mlp_head",
    "attention/qkv": "attn.qkv",
    "attention/projection": "attn.proj",
    "mlp/expand": "mlp.fc1",
    "mlp/reduce": "mlp.fc2",
}
PERFORMER = {
    "": "",  # the layer's own array, the random features
    "norm1": "norm1",
    "qkv": "kqv",
    "projection": "proj",
    "norm2": "norm2",
    "expand": "mlp.0",
    "reduce": "mlp.2",
}
TRANSFORMER = {
    "norm1": "norm1",
    "qkv": "attn.qkv",
    "projection": "attn.proj",
    "norm2": "norm2",
    "expand": "mlp.fc1",
    "reduce": "mlp.fc2",
}
STEM_BLOCKS = {"t2t_performer": PERFORMER, "t2t_transformer": TRANSFORMER}
STEM_LAYERS = {"projection": "patch_embed.proj", "project": "tokens_to_token.project"}
# Layers that read unfolded patches, whose channels come before their positions there and after them here: how many of
# these a patch has.
UNFOLDED = {
    f"{reader}{layer}": size**2
    for reader, (size, _, _) in zip(("attention1.", "attention2."), SPLITS, strict=False)
    for layer in ("norm1", "kqv", "attn.qkv")
} | {"project": SPLITS[-1][0] ** 2}
PARAMETERS = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias", "features": "w"}
OWN_PARAMETERS = ("threshold", "context_kernel", "budget_rate")  # of gates; no file has them
QKV = ("query", "key", "value")
GATE_NAMES = ("_select.", ".norm_policy.")
CLASSIFIER = ("head.weight", "head.bias")
# Names that tell models which this library has not.
OTHER_MODELS = {
    "a distilled model, whose second class token takes part in every attention and would have to be gated too": (
        "dist_token",
        "head_dist.weight",
    ),
    "a model with registers, tokens that take part in every attention and would have to be gated too": ("reg_token",),
    "a model whose classifier reads the pooled patches": ("fc_norm.weight", "attn_pool.latent"),
}
# Of backbones alone: what masked images are made of, and a layer after the class token that no classifier has.
OTHER_PARTS = ("mask_token", "pooler.dense.weight", "pooler.dense.bias")


def published_names(path, stem):
    """The names under which a file may hold a weight.

    Args:
        path: The weight's path in the model, such as `block_0/attention/qkv/kernel`.
        stem: The stem of the model's backbone.

    Returns:
        Alternatives, each a list of names whose arrays, one after the other, are the weight. None for
        `OWN_PARAMETERS`.
    """
    if path in ARRAYS:
        return [[ARRAYS[path]]]
    layer, _, parameter = path.rpartition("/")
    if parameter in OWN_PARAMETERS:
        return []
    part, _, inner = layer.partition("/")
    if part.startswith("block_"):
        layer = f"blocks.{part.removeprefix('block_')}.{BLOCK[inner]}"
    elif part == "stem" and inner in STEM_LAYERS:
        layer = STEM_LAYERS[inner]
    elif part == "stem":
        attention, _, inner = inner.partition("/")
        layer = f"tokens_to_token.{attention}.{STEM_BLOCKS[stem][inner]}".rstrip(".")
    else:
        layer = LAYERS[layer]
    name = f"{layer}.{PARAMETERS[parameter]}"
    if layer.endswith(".attn.qkv") and part != "stem":  # one layer in dense models, three in the gated ones
        return [[name], [f"{layer.removesuffix('qkv')}{each}.{PARAMETERS[parameter]}" for each in QKV]]
    return [[name]]


def to_keras(name, array):
    """An array in the layout of Keras.

    Args:
        name: Its published name.
        array: Linear layers (out, in), the patch convolution (D, C, p, p), or any other.

    Returns:
        Linear layers (in, out), the patch embedding (p·p·C, D); all others as they are. What reads unfolded patches
        has their positions before their channels.
    """
    if name == "patch_embed.proj.weight" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    array = array.T if name.endswith(".weight") and array.ndim == 2 else array
    layer, _, parameter = name.removeprefix("tokens_to_token.").rpartition(".")
    positions = UNFOLDED.get(layer)
    reads = positions and (parameter == "weight" or layer.endswith("norm1"))  # the bias of a linear layer does not
    if not reads or len(array) % positions:  # what does not divide is no such weight: its shape will be refused
        return array
    return array.reshape(-1, positions, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def join(names, arrays):
    """The arrays of one weight, in the layout of Keras, side by side."""
    arrays = [to_keras(name, array) for name, array in zip(names, arrays, strict=True)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def is_gate_name(name):
    """Whether a published name belongs to a gate."""
    return any(part in name for part in GATE_NAMES)


def find_sizes(arrays):
    """Width and depth of what published arrays are of: a dict."""
    class_token = arrays.get("cls_token", np.zeros(()))
    blocks = {match[1] for match in (re.match(r"blocks\.(\d+)\.", name) for name in arrays) if match}
    return {"width": class_token.shape[-1] if class_token.ndim else "unknown", "depth": len(blocks)}


def find_gates(names):
    """What published names tell of the gates: arguments of a `GateConfig`, or `None` for a dense model.

    No name tells if heads are gated fully or partially, if tokens gate the MLP, or what the thresholds are.
    """
    if not any(map(is_gate_name, names)):
        return None

    def gated(part):
        found = (re.match(rf"blocks\.(\d{{1,6}})\.{part}\.", name) for name in names)
        return {int(match[1]) for match in found if match}

    tokens, heads, sublayers = gated("attn.token_select"), gated("head_select"), gated("layer_select")
    return {
        "tokens": bool(tokens),
        "heads": "full" if heads else None,
        "blocks": bool(sublayers),
        "first_gated_block": min(heads | sublayers, default=1),
        "first_token_gated_block": min(tokens, default=0),
        "normalize_policy_input": bool(gated("norm_policy")),
    }
