"""A folder of class folders, split into training and validation images in proportion."""

from __future__ import annotations

import csv
import hashlib
import io
import os

from keras_adavit.errors import InputError, printable


def split_files(files: dict[str, list[str]], share: float, seed: int) -> tuple[dict, dict]:
    """Holds out a share of each class's files, at least one, and leaves at least one.

    Args:
        files: Class name to its sorted files.
        share: Share that is held out, in (0, 1).
        seed: It decides for each file by its class and its name: the same split on every machine, and nearly the same
            one when files are added.

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
    for name, paths in files.items():
        count = min(max(round(share * len(paths)), 1), len(paths) - 1)
        held_out = set(sorted(paths, key=lambda path: draw(seed, name, path))[:count])
        validation[name] = [path for path in paths if path in held_out]
        train[name] = [path for path in paths if path not in held_out]
    return train, validation


def draw(seed: int, name: str, path: str) -> bytes:
    """What a file is sorted by: as good as random, and its own."""
    return hashlib.sha256(b"\0".join(map(os.fsencode, (str(seed), name, os.path.basename(path))))).digest()


def split_table(root: str, train: dict[str, list[str]], validation: dict[str, list[str]]) -> str:
    """A split as CSV, a line a file: `split,class,file`, the file relative to the folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "class", "file"))
    for split, files in (("train", train), ("val", validation)):
        for name, paths in files.items():
            writer.writerows((split, printable(name), printable(os.path.relpath(path, root))) for path in paths)
    return text.getvalue()
