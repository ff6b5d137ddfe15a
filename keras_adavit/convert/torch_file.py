"""Reads a PyTorch file without running anything that it contains."""

import argparse
import dataclasses
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_adavit.errors import InputError

# Where training scripts put the weights; averaged ones first, which is what the papers evaluate.
KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights of a file.

    Attributes:
        path: The file.
        key: The key under which they were found, empty if the file holds nothing else.
        arrays: Float32 arrays by name.
    """

    path: Path
    key: str
    arrays: dict[str, np.ndarray]


def read_checkpoint(path):
    """Reads the weights of a file.

    Args:
        path: A file that `torch.save` wrote.

    Returns:
        A `Checkpoint`.

    Raises:
        InputError: If torch is not installed, or the file is missing, broken, would run code, or holds no weights.
    """
    path = Path(path)
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"PyTorch must be installed to read its files, for example by `pip install torch`. Received: {path}"
        ) from error
    if not path.is_file():
        raise InputError(f"The checkpoint must be an existing file. Received: {path}")
    try:
        # Published files carry the arguments of their training script, which is data as well.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises on bytes that are no checkpoint
        raise InputError(
            f"The checkpoint must be a complete PyTorch file of nothing but data. Received: {path}, but {reason(error)}"
        ) from error
    key, weights = find_weights(content)
    named = all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items())
    if not weights or not named:
        raise InputError(
            f"The checkpoint must hold named weights, alone or under one of the keys {', '.join(KEYS)}. "
            f"Received: {path}, which holds {describe(content)}"
        )
    # Models saved from several processes carry a prefix.
    arrays = {name.removeprefix("module."): value.detach().float().numpy() for name, value in weights.items()}
    return Checkpoint(path, key, arrays)


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
    return f"the keys {', '.join(map(str, list(content)[:8]))}" if content else "an empty dict"


def reason(error):
    """Why torch refused a file, in a few words."""
    forbidden = re.search(r"GLOBAL (\S+)", str(error))
    return f"it wants to run code, {forbidden[1]}" if forbidden else "it is truncated, or of another kind"
