"""Checks a zip archive against its own checksums, which the readers of torch and Keras pass over."""

import os
import zipfile

from keras_adavit.errors import InputError, printable


def open_file(path, argument):
    """Opens a file for reading its bytes.

    Args:
        path: The file.
        argument: What the file is, for the message.

    Raises:
        InputError: If there is no file, or it may not be read.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"The {argument} must be the path of a file. Received: {path!r}")
    if not os.path.isfile(path):  # unlike `Path.is_file`, it raises nothing, whatever the path
        raise InputError(f"The {argument} must be an existing file. Received: {printable(path)}, which is no file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(
            f"The {argument} must be a file that can be read. Received: {printable(path)} ({error.strerror})"
        ) from error


def find_damage(file):
    """What is wrong with an open zip archive, in a few words; `None` if every byte that counts is as it was written."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except Exception:  # zipfile raises a dozen kinds of error on damaged headers
        return "it is truncated or damaged, or of another kind"
    return None if damaged is None else f"its part {printable(damaged)} is damaged"
