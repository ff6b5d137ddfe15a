"""What the published files call a weight, and how they lay it out. Their words appear here alone."""

import numpy as np

from keras_adavit.layers.tokens_to_token import SPLITS

# Checked in this order: gates first, for their names contain those of blocks.
BODY = {
    "token_gate": "attn.token_select.mlp_head",
    "head_gate": "head_select.mlp_head",
    "block_gate": "layer_select.mlp_head",
    "block_": "blocks.",
    "attention.": "attn.",
    "projection": "proj",
    "mlp.expand": "mlp.fc1",
    "mlp.reduce": "mlp.fc2",
    "class_token": "cls_token",
    "position": "pos_embed",
}
STEMS = {
    "patch": {"stem.projection": "patch_embed.proj"},
    "t2t_performer": {
        "stem.": "tokens_to_token.",
        "qkv": "kqv",
        "projection": "proj",
        "expand": "mlp.0",
        "reduce": "mlp.2",
        "features": "w",
    },
    "t2t_transformer": {
        "stem.": "tokens_to_token.",
        "qkv": "attn.qkv",
        "projection": "attn.proj",
        "expand": "mlp.fc1",
        "reduce": "mlp.fc2",
    },
}
# Layers that read unfolded patches, whose channels come before their positions there and after them here: how many of
# these a patch has.
UNFOLDED = {
    f"{reader}{layer}": size**2
    for reader, (size, _, _) in zip(("attention1.", "attention2."), SPLITS, strict=False)
    for layer in ("norm1", "kqv", "attn.qkv")
} | {"project": SPLITS[-1][0] ** 2}
PARAMETERS = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
GATES = ("_select.",)
DISTILLED = ("dist_token", "head_dist.weight")
CLASSIFIER = ("head.weight", "head.bias")


def published_names(path, stem):
    """The names under which a file may hold a weight.

    Args:
        path: The weight's path in the model, such as `block_0/attention/qkv/kernel`.
        stem: The stem of the model's backbone.

    Returns:
        Alternatives, each a list of names whose arrays, one after the other, are the weight.
    """
    name = path.replace("/", ".")
    for ours, published in (STEMS[stem] if name.startswith("stem.") else BODY).items():
        name = name.replace(ours, published)
    head, _, parameter = name.rpartition(".")
    name = f"{head}.{PARAMETERS.get(parameter, parameter)}".lstrip(".")
    if name.startswith("blocks.") and ".qkv." in name:  # one layer in dense models, three in the gated ones
        return [[name], [name.replace("qkv", part) for part in ("query", "key", "value")]]
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


def is_gate(name):
    """If a published name belongs to a gate."""
    return any(part in name for part in GATES)
