"""Data from a folder of images: `DIR/{train,val}/<class>/*.jpg`, or `DIR/<class>/*.jpg`, which is split."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from keras_adavit.data.decode import decode
from keras_adavit.data.folder_split import split_files, split_table
from keras_adavit.data.part import WHOLE, Part
from keras_adavit.data.photos import Photos
from keras_adavit.data.pipeline import Splits, shuffled_indices, start_tensorflow
from keras_adavit.errors import InputError, printable
from keras_adavit.settings import FileName, Seed, Threshold, settings

EXTENSIONS = (".jpg", ".jpeg", ".png")
VALIDATION_NAMES = ("val", "validation", "test")  # the first that exists is taken

WANTED = "Every image must be a sound JPEG, PNG, GIF or BMP file"
CHECK_BATCH = 1024  # files checked between two returns to Python

ClassFiles = dict[str, list[str]]  # class name → its image files, both sorted


@settings
class ImageFolder(Photos):
    """A folder with a `train` and a `val` (or `validation`, or `test`) folder, in each one folder a class.

    Or a folder of class folders, of which `validation_share` is held out.
    """

    path: FileName = ""
    """The folder."""
    validation_share: Threshold | None = None
    """Share of each class's images that is held out, in (0, 1), where the folder holds class folders and no `train`."""
    split_seed: Seed = 0
    """Seed of what is held out."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with files that cannot be decoded: stop, or leave them out and list them."""
    check_images: bool = True
    """Decode every file once before training; switch off for a folder that is known to be good."""

    def __post_init__(self):
        if self.on_bad_image == "skip" and not self.check_images:
            raise InputError("`on_bad_image='skip'` needs `check_images=True`. Received: check_images=False")

    def load(self, batch_size: int, seed: int, part: Part = WHOLE) -> Splits:
        """Lists and checks the files and makes the two pipelines.

        Args:
            batch_size: Images in a batch.
            seed: Of the order and the augmentation of the training images.
            part: What of each training batch is given.

        Returns:
            `Splits` with images float32 `(B, image_size, image_size, 3)`, normalised.

        Raises:
            InputError: If the folder is not laid out as described, the classes of the splits differ, a file
                is not an image (with `on_bad_image="error"`).
        """
        start_tensorflow()
        import tensorflow as tf

        train, validation, skipped, table = self.find()
        train_files, train_labels = _flat(train)
        files, held_out_labels = _mixed(*_flat(validation))
        names, labels = list(map(os.fsencode, train_files)), tf.constant(train_labels)

        def shuffled(seed):
            order = shuffled_indices(len(train_files), seed)
            return order.map(lambda index: _read(tf.gather(names, index), labels[index]), tf.data.AUTOTUNE)

        train_epoch = self.train_batches(shuffled, len(train), batch_size, seed, part)
        held_out = _dataset(files, held_out_labels).map(_read, tf.data.AUTOTUNE)
        return self.splits(
            train_epoch,
            held_out,
            shuffled([seed, 1]),
            batch_size,
            seed,
            steps=len(train_files) // batch_size,
            train_examples=len(train_files),
            class_names=tuple(map(printable, train)),
            validation_examples=len(files),
            skipped=tuple(map(printable, skipped)),
            files=tuple(train_files + files),
            split_table=table,
        )

    def find(self) -> tuple[ClassFiles, ClassFiles, list[str], str | None]:
        """Lists and checks the files: of training, of validation, those left out, and a table of what it split itself.

        Raises:
            InputError: As of `load`.
        """
        if self.validation_share is None:
            splits = find_splits(self.path)
            found = [list_images(split) for split in splits]
            _check_same_classes(*found, splits)
            (train, validation), skipped = self._sound(found, splits)
            return train, validation, skipped, None
        root = find_classes(self.path)
        (files,), skipped = self._sound([list_images(root)], [root])
        train, validation = split_files(files, self.validation_share, self.split_seed)
        return train, validation, skipped, split_table(root, train, validation)

    def _sound(self, found: list[ClassFiles], folders: Sequence[Path]) -> tuple[list[ClassFiles], list[str]]:
        """The files of each folder that can be decoded, and those that cannot, after `check_images`."""
        skipped = list(bad_images([path for files in found for path in _flat(files)[0]])) if self.check_images else []
        if skipped and self.on_bad_image == "error":
            raise InputError(f"{WANTED}, or be left out with `on_bad_image='skip'`. Received: {_few(skipped)}")
        return [_without(files, skipped, folder) for files, folder in zip(found, folders, strict=True)], skipped


def find_splits(path: str) -> tuple[Path, Path]:
    """The training and the validation folder below `path`; an `InputError` says what is missing."""
    root = Path(os.path.expanduser(path))  # which leaves an unknown user alone, where that of Path stops
    if not path or not os.path.isdir(root):
        raise InputError(f"`path` must be a folder with the folders `train` and `val`. Received: path={path!r}")
    found = [entry.name for entry in _entries(root) if os.path.isdir(entry.path)]
    held_out = next((name for name in VALIDATION_NAMES if name in found), None)
    if "train" not in found:
        raise InputError(
            "`path` must hold a folder `train`; a folder of class folders is split by `validation_share=0.1`. "
            f"Received: path={path!r} with {_few(found)}"
        )
    if held_out is None:
        raise InputError(
            f"`path` must hold a folder `val`, `validation` or `test`. Received: path={path!r} with {_few(found)}"
        )
    return root / "train", root / held_out


def find_classes(path: str) -> Path:
    """The folder of class folders at `path`; an `InputError` says if it is split already, or no folder."""
    root = Path(os.path.expanduser(path))
    if not path or not os.path.isdir(root):
        raise InputError(f"`path` must be a folder with a folder for each class. Received: path={path!r}")
    held_out = [name for name in VALIDATION_NAMES if os.path.isdir(root / name)]
    if os.path.isdir(root / "train") and held_out:
        raise InputError(
            "`validation_share` must be None for a folder that is split already. "
            f"Received: path={path!r} with the folders `train` and `{held_out[0]}`"
        )
    return root


def list_images(split: Path) -> ClassFiles:
    """The image files of each class folder; hidden files and other extensions are passed over."""
    entries = _entries(split)
    broken = [entry.name for entry in entries if _leads_nowhere(entry)]
    if broken:
        raise InputError(f"Every link in `{printable(split)}` must lead to a folder. Received: {_few(broken)}")
    classes = [entry.name for entry in entries if entry.is_dir()]
    if not classes:
        raise InputError(f"`{printable(split)}` must hold one folder for each class. Received: no folder")
    files = {name: _image_files(split / name) for name in classes}
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        raise InputError(
            f"Every class folder of `{printable(split)}` must hold JPEG or PNG files. Received: none in {_few(empty)}"
        )
    return files


def bad_images(paths: Sequence[str]) -> Iterator[str]:
    """The files among `paths` that cannot be decoded, in order, found by decoding every one as the pipelines do."""
    import tensorflow as tf

    def decoded(index, path):
        return index, decode(tf.io.read_file(path))[0, 0, 0]  # a pixel that is asked for: else nothing is decoded

    numbered = tf.data.Dataset.from_tensor_slices(list(map(os.fsencode, paths))).enumerate()
    survivors = numbered.map(decoded, tf.data.AUTOTUNE).ignore_errors().batch(CHECK_BATCH)
    following = 0
    for indices, _ in survivors:
        for index in map(int, indices.numpy()):
            yield from paths[following:index]
            following = index + 1
    yield from paths[following:]


@contextlib.contextmanager
def name_bad_images(splits: Splits):
    """Names the image file, or the shard's record, at which a pipeline of `splits` stops, in an `InputError`.

    ```python
    with name_bad_images(splits):
        model.fit(splits.train)
    ```

    TensorFlow's own error does not say which file it was. So the files are decoded once more, up to the first that
    fails: a training that reads them unchecked pays nothing while all is well.
    """
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, UnicodeDecodeError) as error:  # the latter where a file's name in the message is no text
        damage = splits.find_damage() if splits.find_damage else None
        if damage is not None:
            raise damage from error
        bad = next(bad_images(splits.files), None) if splits.files else None
        if bad is None:
            raise
        raise InputError(
            f"{WANTED}, which `check_images` tells before the training. Received: '{printable(bad)}'"
        ) from error


def _entries(folder: Path) -> list[os.DirEntry]:
    """What is in a folder, sorted by name, but for hidden entries."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"`{printable(folder)}` must be a folder that can be read. Received: {error.strerror}"
        ) from error


def _leads_nowhere(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _image_files(folder: Path) -> list[str]:
    """Paths of the images; folders and pipes under an image's name are passed over, links that lead nowhere are not."""
    return [
        entry.path
        for entry in _entries(folder)
        if entry.name.lower().endswith(EXTENSIONS) and (_leads_nowhere(entry) or entry.is_file())
    ]


def _check_same_classes(train: ClassFiles, validation: ClassFiles, splits: tuple[Path, Path]) -> None:
    alone = [
        f"only in `{split.name}`: {_few(sorted(one.keys() - other.keys()))}"
        for split, one, other in zip(splits, (train, validation), (validation, train), strict=True)
        if one.keys() - other.keys()
    ]
    if alone:
        raise InputError(
            f"The splits of `{printable(splits[0].parent)}` must hold the same classes. Received: {'; '.join(alone)}"
        )


def _without(files: ClassFiles, skipped: list[str], split: Path) -> ClassFiles:
    bad = set(skipped)
    good = {name: [path for path in paths if path not in bad] for name, paths in files.items()}
    empty = [name for name, paths in good.items() if not paths]
    if empty:
        raise InputError(
            f"Every class of `{printable(split)}` must have an image that can be decoded. "
            f"Received: none in {_few(empty)}"
        )
    return good


def labelled(files: ClassFiles) -> list[tuple[str, int]]:
    """All files in order, each with its label."""
    return [(path, label) for label, paths in enumerate(files.values()) for path in paths]


def _flat(files: ClassFiles) -> tuple[list[str], list[int]]:
    """All files in order, and the label of each."""
    paths, labels = zip(*labelled(files), strict=True)
    return list(paths), list(labels)


def _mixed(files: list[str], labels: list[int]) -> tuple[list[str], list[int]]:
    """Both in one order, always the same, that mixes the classes: the first batch is one to look at."""
    order = np.random.default_rng(0).permutation(len(files))
    return [files[index] for index in order], [labels[index] for index in order]


def _dataset(files: list[str], labels: list[int]):
    """Dataset of (path as bytes, int32 label): the name of a file need not be text."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((list(map(os.fsencode, files)), labels))


def _read(path, label):
    import tensorflow as tf

    return tf.io.read_file(path), label


def _few(items: list[str], shown: int = 3) -> str:
    """The first items, and how many more there are."""
    rest = len(items) - shown
    listed = ", ".join(f"'{printable(item)}'" for item in items[:shown]) or "nothing"
    return f"{listed} and {rest} more" if rest > 0 else listed
