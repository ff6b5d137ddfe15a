"""Reads a PyTorch file without running anything that it contains."""

import argparse
import dataclasses
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_adavit.archives import find_damage, open_file
from keras_adavit.errors import InputError, printable

# Where training scripts put the weights; averaged ones first, which is what the papers evaluate.
KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
DTYPES = ("float64", "float32", "float16", "bfloat16")
ZIP_START = b"PK\3\4"  # by which torch too tells its zip archives
WANTED = "The checkpoint must be a complete PyTorch file of nothing but data"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights of a file.

    Attributes:
        path: The file.
        key: The key under which they were found, empty if the file holds nothing else.
        arrays: Finite float32 arrays by name.
        has_checksums: Whether the file is a zip archive, whose checksums agree; torch's older format has none.
    """

    path: Path
    key: str
    arrays: dict[str, np.ndarray]
    has_checksums: bool


def read_checkpoint(path):
    """Reads the weights of a file.

    Args:
        path: A file that `torch.save` wrote.

    Returns:
        A `Checkpoint`.

    Raises:
        InputError: If torch is not installed, or the file is missing, broken, would run code, or holds no weights, or
            weights that are no finite numbers.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"PyTorch must be installed to read its files, for example by `pip install torch`. Received: {path!r}"
        ) from error
    with open_file(path, "checkpoint") as file:
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
    arrays = {}
    for name, value in weights.items():
        name = printable(name.removeprefix("module."))  # models saved from several processes carry a prefix
        if name in arrays:
            raise InputError(
                f"The checkpoint must hold each weight once. Received: {printable(path)} with both {name} and "
                f"module.{name}"
            )
        arrays[name], problem = to_array(value)
        if problem:
            raise InputError(
                f"The checkpoint must hold finite numbers of {', '.join(DTYPES)}. Received: {printable(path)} with "
                f"{name}, {problem}"
            )
    return Checkpoint(Path(path), key, arrays, has_checksums=is_zip)


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
        array = tensor.detach().float().numpy()
    except (RuntimeError, TypeError, ValueError):  # nested tensors, tensors without data, and what torch adds to these
        return None, "which is no array of numbers"
    finite = np.isfinite(array).all()
    return array, None if finite else "which has NaN or infinite values"


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
