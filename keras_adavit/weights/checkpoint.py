"""The weights of a file, whatever its format, and what is checked of them."""

import dataclasses
from pathlib import Path

import numpy as np

from keras_adavit.errors import InputError, printable
from keras_adavit.weights.hugging_face_names import published_name

DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights of a file.

    Attributes:
        path: The file.
        key: The key under which they were found, empty if the file holds nothing else.
        arrays: Finite float32 arrays by published name.
        has_checksums: Whether damage to the numbers would have been noticed: in torch's zip archives alone.
        own_names: What the file itself calls an array, by published name, where that is another.
    """

    path: Path
    key: str
    arrays: dict[str, np.ndarray]
    has_checksums: bool
    own_names: dict[str, str] = dataclasses.field(default_factory=dict)

    def own_name(self, name):
        """What the file itself calls the array of a published name."""
        return self.own_names.get(name, name)


def make_checkpoint(path, key, weights, to_array, has_checksums):
    """The `Checkpoint` of what a file holds.

    Args:
        path: The file.
        key: The key under which the weights were found.
        weights: Values of whatever type the format has, by name.
        to_array: Function of such a value, which returns it as a float32 array, and what is wrong with it, in a few
            words, or `None`.
        has_checksums: As of `Checkpoint`.

    Raises:
        InputError: If two names mean the same, or a value is no array of finite numbers.
    """
    arrays, own_names, given = {}, {}, {}
    for name, value in weights.items():
        own = printable(name.removeprefix("module."))  # models saved from several processes carry a prefix
        published = published_name(own)
        if published in arrays:
            raise InputError(
                f"The checkpoint must hold each weight once. Received: {printable(path)} with both "
                f"{given[published]} and {printable(name)}"
            )
        array, problem = to_array(value)
        if not problem and not np.isfinite(array).all():
            problem = "which has NaN or infinite values"
        if problem:
            raise InputError(
                f"The checkpoint must hold finite numbers of {', '.join(DTYPES)}. Received: {printable(path)} with "
                f"{own}, {problem}"
            )
        arrays[published], given[published] = array, printable(name)
        if own != published:
            own_names[published] = own
    return Checkpoint(Path(path), key, arrays, has_checksums, own_names)
