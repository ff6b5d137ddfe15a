"""A folder of class folders, split into training and validation images in proportion."""

from __future__ import annotations

import csv
import io
import os

import numpy as np

from keras_adavit.errors import InputError, printable


def split_files(files: dict[str, list[str]], share: float, seed: int) -> tuple[dict, dict]:
    """Holds out a share of each class's files, at least one, and leaves at least one.

    Args:
        files: Class name to its sorted files.
        share: Share that is held out, in (0, 1).
        seed: The same seed and the same names of files give the same split on every machine.

    Returns:
        Training and validation files in the form of `files`.

    Raises:
        InputError: If a class has fewer than two files.
    """
    small = [name for name, paths in files.items() if len(paths) < 2]
    if small:
        raise InputError(
            "Every class folder must hold two images or more, to be split by `validation_share`. "
            f"Received: one in {', '.join(map(printable, small[:3]))}"
            + (f" and {len(small) - 3} more" if len(small) > 3 else "")
        )
    train, validation = {}, {}
    for number, (name, paths) in enumerate(files.items()):
        count = min(max(round(share * len(paths)), 1), len(paths) - 1)
        held_out = set(np.random.default_rng([seed, number]).permutation(len(paths))[:count].tolist())
        validation[name] = [path for index, path in enumerate(paths) if index in held_out]
        train[name] = [path for index, path in enumerate(paths) if index not in held_out]
    return train, validation


def split_table(root: str, train: dict[str, list[str]], validation: dict[str, list[str]]) -> str:
    """A split as CSV, a line a file: `split,class,file`, the file relative to the folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "class", "file"))
    for split, files in (("train", train), ("val", validation)):
        for name, paths in files.items():
            writer.writerows((split, printable(name), printable(os.path.relpath(path, root))) for path in paths)
    return text.getvalue()
