"""The folder of a run: claimed by one run, locked while that runs, opened again to go on."""

import contextlib
import os
from pathlib import Path

import filelock

from keras_adavit.errors import InputError
from keras_adavit.experiments.recipe_file import load_recipe, recipe_source, save_recipe
from keras_adavit.files import make_folder

RECIPE, CHECKPOINT, RESULTS = "recipe.py", "checkpoint.npz", "results.json"
LOCK = ".lock"


def new_folder(recipe):
    """Makes the folder of the results, which must be new or empty, with the recipe in it."""
    if recipe.output is not None:
        folder = Path(recipe.output)
        if not claim(folder, recipe, empty=True):
            raise InputError(f"`output` must be a new or an empty folder. Received: output={recipe.output!r}")
        return folder
    folder, number = Path("runs") / recipe.name, 1
    while not claim(folder, recipe):
        number += 1
        folder = Path("runs") / f"{recipe.name}-{number}"
    return folder


def claim(folder, recipe, empty=False):
    """Makes a folder this run's own and returns true, or returns false where it is another's; an empty one may do.

    A folder belongs to the run that makes `tensorboard/` in it: of several runs that try at once, one succeeds.
    """
    new = make_folder(folder)
    if not new and not (empty and is_empty(folder)):
        return False
    try:
        if not make_folder(folder / "tensorboard"):
            return False
        save_recipe(recipe, folder / RECIPE)
    except InputError:  # nothing has begun: only what was there before stays
        for made in [folder / "tensorboard", folder][: 1 + new]:
            with contextlib.suppress(OSError):
                made.rmdir()
        raise
    return True


def is_empty(folder):
    return os.access(folder, os.R_OK) and folder.is_dir() and not any(folder.iterdir())


def find_run(folder, recipe=None):
    """The recipe of a run that was stopped.

    Args:
        folder: The run's folder.
        recipe: The `Recipe` that it must be of; `None` takes whatever it is of.

    Returns:
        The `Recipe`, or `None` if the run is finished.

    Raises:
        InputError: If there is no such run, or it is of another recipe.
    """
    folder = Path(folder)
    if not (folder / RECIPE).is_file() or not (folder / "tensorboard").is_dir():
        raise InputError(
            f"`--resume` must be the folder of a run, with its {RECIPE} and tensorboard. Received: {folder}"
        )
    own = load_recipe(folder / RECIPE)
    if recipe is not None and recipe_source(recipe) != recipe_source(own):
        raise InputError(
            f"`--resume` must be the folder of a run of this recipe; `--resume` alone goes on with the folder's own. "
            f"Received: {folder}, whose {RECIPE} differs"
        )
    return None if (folder / RESULTS).is_file() else own


@contextlib.contextmanager
def locked(folder):
    """Keeps another process from writing to a run's folder.

    Where the file system has locks of its own, as nearly all have, it goes with the process, however that ends.

    Raises:
        InputError: If another process holds it.
    """
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(f"The folder must not be in use by another process. Received: {folder}") from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written. Received: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
