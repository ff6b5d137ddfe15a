"""Reads a safetensors file, the format of timm and Hugging Face."""

import operator

import numpy as np
import safetensors

from keras_adavit.errors import InputError, printable
from keras_adavit.weights.checkpoint import make_checkpoint

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: these are its bits


def read_safetensors(file, path):
    """Reads the weights of a safetensors file.

    Args:
        file: The open file.
        path: Its path, for messages.

    Returns:
        A `Checkpoint`.

    Raises:
        InputError: If the file is broken or holds no weights, or weights that are no finite numbers.
    """
    try:
        # The package checks the header, that it accounts for every byte, and that no byte is two weights'.
        tensors = safetensors.deserialize(file.read())
    except Exception as error:  # whatever the package raises on bytes that are no such file
        raise InputError(
            f"The checkpoint must be a complete safetensors file. Received: {printable(path)}, but it is truncated or "
            "damaged, or of another kind"
        ) from error
    if not tensors:
        raise InputError(f"The checkpoint must hold named weights. Received: {printable(path)}, which holds none")
    weights = dict(sorted(tensors, key=operator.itemgetter(0)))  # they come in any order
    return make_checkpoint(path, "", weights, to_array, has_checksums=False)


def to_array(tensor):
    """A tensor as a float32 array, and what is wrong with it, in a few words, or `None`."""
    if tensor["dtype"] not in DTYPES:
        return None, f"of {tensor['dtype']}"
    try:
        array = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    except ValueError:  # of no numbers, but of more dimensions, or larger ones, than NumPy has
        return None, "which is no array of numbers"
    if tensor["dtype"] == "BF16":
        array = (array.astype("uint32") << 16).view("float32")
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite
        return array.astype("float32", copy=False), None
