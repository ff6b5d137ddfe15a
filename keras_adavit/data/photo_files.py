"""Photos by name: the files that paths speak of, and their pixels as a model takes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_adavit.data.decode import decode_center_crop
from keras_adavit.data.image_folder import EXTENSIONS, WANTED, bad_images
from keras_adavit.data.pipeline import normalize, start_tensorflow
from keras_adavit.data.preprocessing import Preprocessing
from keras_adavit.errors import InputError, printable
from keras_adavit.memory import check_memory


def find_photos(paths: Sequence[str | Path]) -> list[str]:
    """The image files among `paths`, and of each folder those in it at any depth, sorted; hidden ones are passed over.

    Raises:
        InputError: If a path leads nowhere, a folder cannot be read, or holds no `.jpg`, `.jpeg` or `.png` file.
    """
    return [file for path in map(str, paths) for file in (_in_folder(path) if os.path.isdir(path) else [_file(path)])]


def read_photos(
    files: Sequence[str], image_size: int, preprocessing: Preprocessing, batch_size: int
) -> Iterator[np.ndarray]:
    """Yields batches of photos: the central square, resized and normalised, grey where `preprocessing` has one channel.

    Args:
        files: Names of JPEG, PNG, GIF or BMP files.
        image_size: Side S of the result.
        preprocessing: What becomes of them, for C channels, 1 or 3.
        batch_size: Most images in a batch B.

    Yields:
        Float32 arrays (B, S, S, C).

    Raises:
        InputError: If a file cannot be decoded, or a batch cannot fit into memory.
    """
    start_tensorflow()
    import tensorflow as tf

    batch_size = min(batch_size, len(files))
    sizes = f"batch_size={batch_size}, image_size={image_size}"
    check_memory(4 * 3 * image_size**2 * batch_size, "A batch of images", sizes)

    def read(path):
        return decode_photo(tf.io.read_file(path), image_size, preprocessing)

    photos = tf.data.Dataset.from_tensor_slices(list(map(os.fsencode, files))).map(read, tf.data.AUTOTUNE)
    try:
        yield from photos.batch(batch_size).prefetch(1).as_numpy_iterator()
    except (tf.errors.OpError, UnicodeDecodeError) as error:  # the latter where a file's name in the message is no text
        bad = next(bad_images(files), None)
        if bad is None:
            raise
        raise InputError(f"{WANTED}. Received: '{printable(bad)}'") from error


def decode_photo(encoded, image_size: int, preprocessing: Preprocessing):
    """A photo as a model takes it: the bytes of an image file, a scalar string, to float32 `(S, S, C)`."""
    return normalize_photos(decode_center_crop(encoded, image_size, preprocessing.crop_fraction), preprocessing)


def normalize_photos(pixels, preprocessing: Preprocessing):
    """Normalises uint8 `(..., S, S, 3)` to float32 `(..., S, S, C)`, grey where `preprocessing` has one channel."""
    import tensorflow as tf

    grey = len(preprocessing.mean) == 1
    pixels = tf.image.rgb_to_grayscale(pixels) if grey else pixels
    return normalize(pixels, preprocessing.mean, preprocessing.std)


def _file(path: str) -> str:
    if not os.path.isfile(path):
        raise InputError(
            f"`images` must be files, or folders with JPEG or PNG files in them. "
            f"Received: '{printable(path)}', which is neither"
        )
    return path


def _in_folder(path: str) -> list[str]:
    """The image files in a folder and those below it; links that lead nowhere too, pipes under such a name not."""

    def refuse(error):
        name = printable(error.filename)
        raise InputError(f"`{name}` must be a folder that can be read. Received: {error.strerror}") from error

    found = []
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
        found += [os.path.join(folder, name) for name in images]
    found = sorted(file for file in found if os.path.isfile(file) or not os.path.exists(file))
    if not found:
        raise InputError(
            f"`images` must be files, or folders with JPEG or PNG files in them. "
            f"Received: '{printable(path)}', which holds none"
        )
    return found
