"""Fetches the published ImageNet weights of the dense models."""

import hashlib
import urllib.error
from pathlib import Path

import keras

from keras_adavit.errors import InputError

DEIT_RELEASE = "https://dl.fbaipublicfiles.com/deit/"
T2T_RELEASE = "https://github.com/yitu-opensource/T2T-ViT/releases/download/main/"
CACHE = None  # folder, in which `models` keeps the files; None: Keras's own


def download(file):
    """Fetches a published file, once.

    The name of a DeiT file ends in the first 8 digits of its SHA-256, which are checked. No digest of the T2T-ViT
    files is published: of these is only known that they came over HTTPS and that the converter accounts for them.

    Args:
        file: Name of a file in `keras_adavit.models.presets`.

    Returns:
        Path of the file.

    Raises:
        InputError: If it cannot be fetched, or is not what was published.
    """
    deit = file.startswith("deit_")
    origin = (DEIT_RELEASE if deit else T2T_RELEASE) + file
    try:
        path = Path(keras.utils.get_file(file, origin, cache_subdir="models", cache_dir=CACHE))
    except Exception as error:  # Keras raises nothing more precise
        if isinstance(error.__context__, urllib.error.HTTPError):
            error.__context__.close()  # the answer of the server, which Keras leaves open
        raise InputError(
            f"`weights` could not be fetched; bring the file and call `load_torch_checkpoint`. Received: {error}"
        ) from error
    digits = Path(file).stem.rpartition("-")[2]
    found = sha256(path)[: len(digits)] if deit else digits
    if found != digits:
        path.unlink()
        raise InputError(
            f"`weights` must be the published file, whose SHA-256 starts with {digits}; the copy is deleted. "
            f"Received: {origin} with {found}"
        )
    return path


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
