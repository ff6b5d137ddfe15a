"""Recipes as Python files: found by name, read, and written as they ran."""

import difflib
import pprint
import runpy
import traceback
from pathlib import Path

from keras_adavit import experiments
from keras_adavit.errors import InputError
from keras_adavit.experiments.recipe import Recipe
from keras_adavit.files import write_text
from keras_adavit.settings import shorten


def load_recipe(path):
    """Reads the variable `recipe` of a Python file.

    Args:
        path: The file.

    Returns:
        A `Recipe`.

    Raises:
        InputError: If there is no such file, or it does not define a recipe.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(str(path), [str(other) for other in path.parent.glob("*.py")], n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"The recipe must be a Python file{hint}. Received: {path}, which is no file")
    try:
        recipe = runpy.run_path(str(path)).get("recipe")
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        place = f"The recipe {path}{find_line(error, str(path))}"
        if isinstance(error, InputError):
            raise InputError(f"{place}: {error}") from error
        reason = " ".join(traceback.format_exception_only(error)[-1].split())
        raise InputError(f"{place}: a recipe must be Python that runs. Received: {reason}") from error
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path} must define `recipe = Recipe(...)`. Received: recipe={shorten(recipe)}")
    return recipe


def find_line(error, path):
    """Where in a file an error came from, such as ", line 3"; nothing if that is not known."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path and error.lineno:
        lines.append(error.lineno)
    return f", line {lines[-1]}" if lines else ""


def recipe_folder():
    """Where the recipes of this package are: in an installed package, or in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names():
    """Names of the recipes that come with this package."""
    return sorted(path.stem for path in recipe_folder().glob("*.py"))


def find_recipe(name):
    """The file of a recipe: `name` itself, or that of a recipe of this package."""
    return recipe_folder() / f"{name}.py" if name in recipe_names() and not Path(name).is_file() else Path(name)


def save_recipe(recipe, path):
    """Writes a recipe as a Python file that `load_recipe` reads."""
    write_text(path, recipe_source(recipe))


def recipe_source(recipe):
    """A recipe as the text of a Python file; equal recipes have the same."""
    names = ", ".join(experiments.__all__)
    source = f'"""The recipe as it ran."""\n\nfrom keras_adavit.experiments import {names}  # noqa: F401\n\n'
    return f"{source}recipe = {pprint.pformat(recipe, width=100, sort_dicts=False)}\n"
