"""Data from a folder of images: `DIR/{train,val}/<class>/*.jpg`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from keras_adavit.data.decode import decode
from keras_adavit.data.photos import Photos
from keras_adavit.data.pipeline import Splits, keep_off_accelerators
from keras_adavit.errors import InputError
from keras_adavit.settings import FileName, settings

EXTENSIONS = (".jpg", ".jpeg", ".png")
VALIDATION_NAMES = ("val", "validation", "test")  # the first that exists is taken

CHECK_BATCH = 1024  # files checked between two returns to Python

ClassFiles = dict[str, list[str]]  # class name → its image files, both sorted


@settings
class ImageFolder(Photos):
    """A folder with a `train` and a `val` (or `validation`, or `test`) folder, in each one folder a class."""

    path: FileName = ""
    """The folder."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with files that cannot be decoded: stop, or leave them out and list them."""
    check_images: bool = True
    """Decode every file once before training; switch off for a folder that is known to be good."""

    def __post_init__(self):
        if self.on_bad_image == "skip" and not self.check_images:
            raise InputError("`on_bad_image='skip'` needs `check_images=True`. Received: check_images=False")

    def load(self, batch_size: int, seed: int) -> Splits:
        """Lists and checks the files and makes the two pipelines.

        Args:
            batch_size: Images in a batch.
            seed: Of the order and the augmentation of the training images.

        Returns:
            `Splits` with images float32 `(B, image_size, image_size, 3)`, normalised.

        Raises:
            InputError: If the folder is not laid out as described, the classes of the splits differ, a file
                is not an image (with `on_bad_image="error"`).
        """
        import tensorflow as tf

        keep_off_accelerators()
        splits = find_splits(self.path)
        train, validation = (list_images(split) for split in splits)
        _check_same_classes(train, validation, splits)
        skipped = bad_images([*_flat(train)[0], *_flat(validation)[0]]) if self.check_images else []
        if skipped and self.on_bad_image == "error":
            raise InputError(
                "Every image must be a sound JPEG, PNG, GIF or BMP file, or be left out with `on_bad_image='skip'`. "
                f"Received: {_few(skipped)}"
            )
        train, validation = (
            _without(files, skipped, split) for files, split in zip((train, validation), splits, strict=True)
        )

        train_files, train_labels = _flat(train)
        files, labels = _flat(validation)
        names = tf.data.Dataset.from_tensor_slices((train_files, train_labels))
        encoded = names.shuffle(len(train_files), seed=seed).map(_read, tf.data.AUTOTUNE)
        held_out = tf.data.Dataset.from_tensor_slices((files, labels)).map(_read, tf.data.AUTOTUNE)
        return Splits(
            train=self.train_batches(encoded, len(train), batch_size, seed),
            validation=self.validation_batches(held_out, batch_size),
            class_names=tuple(train),
            train_examples=len(train_files),
            validation_examples=len(files),
            mean=self.mean,
            std=self.std,
            skipped=tuple(skipped),
        )


def find_splits(path: str) -> tuple[Path, Path]:
    """The training and the validation folder below `path`; an `InputError` says what is missing."""
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise InputError(f"`path` must be a folder with the folders `train` and `val`. Received: path={path!r}")
    found = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    held_out = next((name for name in VALIDATION_NAMES if name in found), None)
    if "train" not in found:
        raise InputError(f"`path` must hold a folder `train`. Received: path={path!r} with {_few(found)}")
    if held_out is None:
        raise InputError(
            f"`path` must hold a folder `val`, `validation` or `test`. Received: path={path!r} with {_few(found)}"
        )
    return root / "train", root / held_out


def list_images(split: Path) -> ClassFiles:
    """The image files of each class folder; hidden files and other extensions are passed over."""
    classes = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise InputError(f"`{split}` must hold one folder for each class. Received: no folder")
    files = {name: _image_files(split / name) for name in classes}
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        raise InputError(
            f"Every class folder of `{split}` must hold JPEG or PNG files. Received: none in {_few(empty)}"
        )
    return files


def bad_images(paths: list[str]) -> list[str]:
    """The files among `paths` that cannot be decoded, found by decoding every one as the pipelines do."""
    import tensorflow as tf

    def decoded(index, path):
        return index, decode(tf.io.read_file(path))[0, 0, 0]  # a pixel that is asked for: else nothing is decoded

    survivors = tf.data.Dataset.from_tensor_slices(paths).enumerate().map(decoded, tf.data.AUTOTUNE).ignore_errors()
    good = {int(index) for indices, _ in survivors.batch(CHECK_BATCH) for index in indices.numpy()}
    return [path for index, path in enumerate(paths) if index not in good]


def _image_files(folder: Path) -> list[str]:
    names = (name for name in os.listdir(folder) if not name.startswith(".") and name.lower().endswith(EXTENSIONS))
    return sorted(str(folder / name) for name in names)


def _check_same_classes(train: ClassFiles, validation: ClassFiles, splits: tuple[Path, Path]) -> None:
    alone = [
        f"only in `{split.name}`: {_few(sorted(one.keys() - other.keys()))}"
        for split, one, other in zip(splits, (train, validation), (validation, train), strict=True)
        if one.keys() - other.keys()
    ]
    if alone:
        raise InputError(f"The splits of `{splits[0].parent}` must hold the same classes. Received: {'; '.join(alone)}")


def _without(files: ClassFiles, skipped: list[str], split: Path) -> ClassFiles:
    bad = set(skipped)
    good = {name: [path for path in paths if path not in bad] for name, paths in files.items()}
    empty = [name for name, paths in good.items() if not paths]
    if empty:
        raise InputError(
            f"Every class of `{split}` must have an image that can be decoded. Received: none in {_few(empty)}"
        )
    return good


def _flat(files: ClassFiles) -> tuple[list[str], list[int]]:
    """All files in order, and the label of each."""
    pairs = [(path, label) for label, paths in enumerate(files.values()) for path in paths]
    paths, labels = zip(*pairs, strict=True)
    return list(paths), list(labels)


def _read(path, label):
    import tensorflow as tf

    return tf.io.read_file(path), label


def _few(items: list[str], shown: int = 3) -> str:
    """The first items, and how many more there are."""
    rest = len(items) - shown
    listed = ", ".join(f"'{item}'" for item in items[:shown]) or "nothing"
    return f"{listed} and {rest} more" if rest > 0 else listed
