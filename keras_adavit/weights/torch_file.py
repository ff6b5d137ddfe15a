"""Reads a PyTorch file without running anything that it contains."""

import argparse
import re
import warnings
from collections.abc import Mapping

from keras_adavit.archives import find_damage
from keras_adavit.errors import InputError, printable
from keras_adavit.weights.checkpoint import DTYPES, make_checkpoint

# Where training scripts put the weights; averaged ones first, which is what the papers evaluate.
KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
ZIP_START = b"PK\3\4"  # by which torch too tells its zip archives
WANTED = "The checkpoint must be a complete PyTorch file of nothing but data"


def read_torch(file, path):
    """Reads the weights of a PyTorch file.

    Args:
        file: The open file, which `torch.save` wrote.
        path: Its path, for messages.

    Returns:
        A `Checkpoint`.

    Raises:
        InputError: If torch is not installed, or the file is broken, would run code, or holds no weights, or weights
            that are no finite numbers.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "PyTorch must be installed to read its files, for example by `pip install torch`. "
            f"Received: {printable(path)}"
        ) from error
    is_zip = file.read(len(ZIP_START)) == ZIP_START
    damage = find_damage(file) if is_zip else None
    if damage:
        raise InputError(f"{WANTED}. Received: {printable(path)}, but {damage}")
    file.seek(0)
    try:
        # Published files carry the arguments of their training script, which is data as well.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises on bytes that are no checkpoint
        raise InputError(f"{WANTED}. Received: {printable(path)}, but {reason(error)}") from error
    key, weights = find_weights(content)
    named = all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items())
    if not weights or not named:
        raise InputError(
            f"The checkpoint must hold named weights, alone or under one of the keys {', '.join(KEYS)}. "
            f"Received: {printable(path)}, which holds {describe(content)}"
        )
    return make_checkpoint(path, key, weights, to_array, has_checksums=is_zip)


def to_array(tensor):
    """A tensor as a float32 array, and what is wrong with it, in a few words, or `None`."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    layout = str(tensor.layout).removeprefix("torch.")
    if dtype not in DTYPES or layout != "strided":
        return None, f"of {dtype}" + ("" if layout == "strided" else f" ({layout})")
    try:
        # What a file repeats without holding it would take any amount of memory.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            return None, "which claims more numbers than the file holds"
        return tensor.detach().float().numpy(), None
    except (RuntimeError, TypeError, ValueError):  # nested tensors, tensors without data, and what torch adds to these
        return None, "which is no array of numbers"


def find_weights(content):
    """The key and the mapping of weights in what a file holds; an empty mapping if there is none."""
    if not isinstance(content, Mapping):
        return "", {}
    for key in KEYS:
        if isinstance(content.get(key), Mapping):
            return key, content[key]
    return "", content


def describe(content):
    """What a file holds, in a few words."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    keys = ", ".join(printable(str(key)[:80]) for key in list(content)[:8])
    return f"the keys {keys}" if content else "an empty dict"


def reason(error):
    """Why torch refused a file, in a few words."""
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    if forbidden:
        return f"it wants to run code, {printable(forbidden[1])}"
    return "it is truncated or damaged, or of another kind"
