"""Checks of plain arguments: numbers, choices, and which sizes make a backbone."""

import math
import numbers
import operator

import numpy as np

from keras_adavit.data.preprocessing import Preprocessing
from keras_adavit.errors import InputError
from keras_adavit.gating.config import GateConfig
from keras_adavit.layers.tokens_to_token import TOKEN_LAYERS, TOTAL_STRIDE
from keras_adavit.macs import LEAST_CONV_WIDTH

EXECUTIONS = ("masked", "packed")
MAX_INTEGER = 2**31 - 1
MAX_WEIGHTS = 10**11  # a size with a typing error ends here, not when the memory does


def describe(value):
    """What came, in a few words: an array's dtype and shape, or the value itself."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        dtype = getattr(value.dtype, "name", None) or str(value.dtype)
        return f"{dtype.removeprefix('torch.')} of the shape {value.shape}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:100]}…"


def refuse(name, expected, value):
    """Raises the `InputError` of an argument that is not as expected."""
    raise InputError(f"`{name}` must be {expected}. Received: {name}={describe(value)}")


def check_integer(name, value, minimum=1):
    """The value as an `int`; raises `InputError` unless it is a whole number from `minimum` to 2³¹ − 1."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum:
        refuse(name, f"{minimum} or more, a whole number", value)
    if number > MAX_INTEGER:
        refuse(name, f"at most {MAX_INTEGER}", value)
    return number


def check_positive(name, value):
    """The value as a `float`; raises `InputError` unless it is a positive, finite number."""
    if not is_finite(value) or value <= 0:
        refuse(name, "positive, a finite number", value)
    return float(value)


def check_share(name, value):
    """The value as a `float`; raises `InputError` unless it is a number in [0, 1)."""
    if not is_finite(value) or not 0 <= value < 1:
        refuse(name, "in [0, 1)", value)
    return float(value)


def check_choice(name, value, choices):
    """Raises `InputError` unless the value is one of some strings or `None`."""
    if not isinstance(value, (str, type(None))) or value not in choices:
        *others, last = map(repr, choices)
        refuse(name, f"{', '.join(others)} or {last}" if others else last, value)


def check_execution(execution):
    """Returns it; raises `InputError` unless it is one of `EXECUTIONS`."""
    check_choice("execution", execution, EXECUTIONS)
    return execution


def check_bool(name, value):
    """The value as a `bool`; raises `InputError` unless it is one."""
    if not isinstance(value, (bool, np.bool_)):
        refuse(name, "True or False", value)
    return bool(value)


def is_finite(value):
    """Whether it is a number, and neither a bool, infinite, nor beyond what a float holds."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_gates(gates):
    """The `GateConfig` of a config or of itself, or `None`; raises `InputError` for something else."""
    if isinstance(gates, dict):
        try:
            return GateConfig(**gates)
        except TypeError as error:
            raise InputError(
                f"`gates` must be a `GateConfig`, or a dict of its arguments. Received: {describe(gates)}"
            ) from error
    if gates is not None and not isinstance(gates, GateConfig):
        refuse("gates", "a `GateConfig` or None", gates)
    return gates


def check_class_names(class_names, num_classes):
    """The names as a tuple, or `None`; raises `InputError` unless they are `num_classes` strings, no two the same."""
    if class_names is None:
        return None
    if not isinstance(class_names, (tuple, list)) or not all(isinstance(name, str) for name in class_names):
        refuse("class_names", f"a tuple of {num_classes} strings or None", class_names)
    if len(class_names) != num_classes:
        raise InputError(f"`class_names` must be {num_classes}, one for each class. Received: {len(class_names)} names")
    if len(set(class_names)) != num_classes:
        twice = next(name for name in class_names if class_names.count(name) > 1)
        raise InputError(f"`class_names` must differ from each other. Received: {describe(twice)} more than once")
    return tuple(class_names)


def check_preprocessing(preprocessing, channels):
    """The `Preprocessing` of a config or of itself, or `None`; raises `InputError` for one of other channels."""
    if isinstance(preprocessing, dict):
        try:
            preprocessing = Preprocessing(**preprocessing)
        except TypeError as error:
            raise InputError(
                f"`preprocessing` must be a `Preprocessing`, or a dict of its arguments. "
                f"Received: {describe(preprocessing)}"
            ) from error
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        refuse("preprocessing", "a `Preprocessing` or None", preprocessing)
    if preprocessing is not None and len(preprocessing.mean) != channels:
        raise InputError(
            f"`preprocessing` must have a `mean` and a `std` for each of the model's channels, {channels}. "
            f"Received: {len(preprocessing.mean)} of each"
        )
    return preprocessing


def check_takes_photos(model):
    """Raises `InputError` unless a classifier takes photos: it has a `preprocessing`, and images of 1 or 3 channels."""
    if model.preprocessing is None:
        raise InputError(
            "The model must know the `preprocessing` of its images to take photos: train it anew, give a data set with "
            "`--data`, or set `model.preprocessing`. Received: preprocessing=None"
        )
    if model.backbone.channels not in (1, 3):
        raise InputError(f"The model must take images of 1 or 3 channels. Received: {model.backbone.channels}")


def check_sizes(sizes, mlp_ratio, gates, stem):
    """Raises `InputError` for sizes, a dict of integers, that do not fit together."""
    for size, divisor in (("image_size", "patch_size"), ("width", "num_heads")):
        if sizes[size] % sizes[divisor]:
            raise InputError(
                f"`{size}` must be a multiple of `{divisor}`. "
                f"Received: {size}={sizes[size]}, {divisor}={sizes[divisor]}"
            )
    check_choice("stem", stem, ("patch", "conv", *TOKEN_LAYERS))
    if stem == "conv":
        if sizes["patch_size"] < 2 or sizes["patch_size"].bit_count() != 1:
            refuse("patch_size", "a power of two from 2 with a convolutional stem", sizes["patch_size"])
        if sizes["width"] < LEAST_CONV_WIDTH:
            refuse("width", f"{LEAST_CONV_WIDTH} or more with a convolutional stem", sizes["width"])
    elif stem != "patch" and sizes["patch_size"] != TOTAL_STRIDE:
        raise InputError(
            f"`patch_size` must be {TOTAL_STRIDE} with a tokens-to-token stem. "
            f"Received: patch_size={sizes['patch_size']}"
        )
    if sizes["width"] * mlp_ratio < 1:
        refuse("mlp_ratio", "so large that the MLPs have a hidden width of 1 or more", mlp_ratio)
    mlp_dim = int(sizes["width"] * mlp_ratio)
    if gates and gates.mlp_heads == "hidden" and mlp_dim % sizes["num_heads"]:
        raise InputError(
            f"`mlp_ratio` must give the MLPs a hidden width that is a multiple of `num_heads` where `mlp_heads` is "
            f"'hidden'. Received: mlp_ratio={mlp_ratio}, a hidden width of {mlp_dim}, num_heads={sizes['num_heads']}"
        )
    weights = count_weights(sizes, mlp_ratio)
    if weights > MAX_WEIGHTS:
        raise InputError(
            f"`image_size`, `patch_size`, `width`, `depth`, `mlp_ratio`, `channels` and `token_width` must be those of "
            f"a model of at most {MAX_WEIGHTS:.0e} weights. Received: sizes of {weights:.1e} weights"
        )
    depth = sizes["depth"]
    last = depth - 1
    if gates and not (
        gates.gates_tokens(last) == gates.tokens
        and gates.gates_heads(last) == (gates.heads is not None)
        and gates.gates_sublayers(last) == gates.blocks
    ):
        raise InputError(  # usage in no block is no number
            f"Of what is gated, `first_gated_block` and `first_token_gated_block` must leave a block of {depth} "
            f"to gate. Received: {gates.first_gated_block} and {gates.first_token_gated_block}"
        )


def count_weights(sizes, mlp_ratio):
    """The weights of a backbone, roughly: a float."""
    width = float(sizes["width"])
    positions = (sizes["image_size"] / sizes["patch_size"]) ** 2 * width
    stem = sizes["patch_size"] ** 2 * sizes["channels"] * max(width, sizes["token_width"])
    return positions + stem + sizes["depth"] * width * width * (4 + 2 * mlp_ratio)
