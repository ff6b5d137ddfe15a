"""Files that are on disk whole or not at all, whatever happens while they are written."""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

from keras_adavit.errors import InputError

UNFINISHED = ".unfinished-"


@contextlib.contextmanager
def write_whole(path):
    """Gives another path to write to; what is there in the end takes the place of `path`, in one step.

    ```python
    with write_whole("model.keras") as unfinished:
        model.save(unfinished)
    ```

    The other path has the same name, in a hidden folder `.unfinished-…` beside it. What was written is flushed to the
    disk before it is renamed, and the rename after it: at any moment, of a kill or a power cut too, `path` is what it
    was before or what it is now. If anything fails, it stays as it was, and the hidden folder goes. A kill can leave
    the hidden folder behind; nothing reads it, and it may be deleted.

    A file takes the place of a file, a folder that of a folder. To replace a folder takes two steps, and a kill between
    them leaves both beside the place: the new one as above, the old one in `.unfinished-…-replaced`.

    Args:
        path: A file or a folder, new or not. Of a link, what it points to; what is neither, such as `/dev/stdout`, is
            written to directly.

    Raises:
        InputError: If the disk is full, or anything else that the operating system says is in the way.
    """
    with explain_os_error(path):
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            yield Path(path)
            return
        place = Path(os.path.realpath(path))
        with beside(place) as unfinished:
            yield unfinished
            flush(unfinished)
            if place.is_file():
                shutil.copymode(place, unfinished)  # what was private stays so
            if place.is_dir() and unfinished.is_dir():
                replace_folder(place, unfinished)
            else:
                os.replace(unfinished, place)
            flush_folder(place.parent)


def write_text(path, text):
    """Writes a text file by `write_whole`."""
    with write_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def check_writable(path):
    """Raises `InputError` unless a file can be written there, by writing an empty one beside it."""
    with explain_os_error(path), beside(Path(os.path.realpath(path))) as unfinished:
        unfinished.touch()


def make_folder(path):
    """Makes a folder, and those above it, and returns whether it is new: of several callers at once, one is told so."""
    with explain_os_error(path):
        try:
            Path(path).mkdir(parents=True)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def beside(place):
    """A path of the same name in a hidden folder beside `place`, which goes in the end."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=UNFINISHED, ignore_cleanup_errors=True) as folder:
        yield Path(folder) / place.name


@contextlib.contextmanager
def explain_os_error(path):
    """Turns an `OSError`, also one that a library answered with another error, into a sentence about `path`."""
    try:
        yield
    except Exception as error:
        behind = error
        while behind is not None and not isinstance(behind, OSError):
            behind = None if isinstance(behind, InputError) else behind.__cause__ or behind.__context__
        if behind is None:
            raise
        raise InputError(f"{path} cannot be written. Received: {behind.strerror or behind}") from error


def flush(path):
    """Flushes a file, or a folder and all in it, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            flush(child)
        flush_folder(path)
    else:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def flush_folder(path):
    """Flushes the names in a folder, where the system can: Windows and some network drives cannot."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def replace_folder(place, new):
    """Puts a folder in the place of another; one that is not empty cannot be renamed over."""
    old = new.parent.with_name(f"{new.parent.name}-replaced")
    os.rename(place, old)
    try:
        os.rename(new, place)
    except OSError:
        os.rename(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)
