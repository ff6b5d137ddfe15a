"""Reads the weights of a file in whichever of the two formats it is."""

import os

from keras_adavit.archives import open_file
from keras_adavit.weights.safetensors_file import read_safetensors
from keras_adavit.weights.torch_file import read_torch

HEADER_LENGTH = 8  # bytes before the header of a safetensors file, a JSON object


def read_checkpoint(path):
    """Reads the weights of a file, without running anything that it contains.

    Args:
        path: A file that `torch.save` or safetensors wrote. The content decides which; a file whose name ends in
            `.safetensors` is not taken for anything else.

    Returns:
        A `Checkpoint`.

    Raises:
        InputError: If the file is missing, broken, would run code, or holds no weights, or weights that are no finite
            numbers; or it is a PyTorch file, and torch is not installed.
    """
    with open_file(path, "checkpoint") as file:
        starts_with_header = file.read(HEADER_LENGTH + 1)[HEADER_LENGTH:] == b"{"
        file.seek(0)
        if starts_with_header or os.fsdecode(path).endswith(".safetensors"):
            return read_safetensors(file, path)
        return read_torch(file, path)
