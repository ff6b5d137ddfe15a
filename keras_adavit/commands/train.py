"""Trains what a recipe says: a dense vision transformer, then an adaptive one from its weights.

usage: keras-adavit train RECIPE [--FIELD VALUE ...]
       keras-adavit train --resume FOLDER

  keras-adavit train digits
  keras-adavit train my_recipe.py --budget.macs-target 0.3 --adaptive.epochs 20
  keras-adavit train digits --help          lists every field of the recipe
  keras-adavit train ada_deit_small --data.source shards --data.path DIR   images from elsewhere than the recipe says
  keras-adavit train --resume runs/digits   goes on with a run that was stopped, from its last checkpoint
  KERAS_BACKEND=torch keras-adavit train digits

RECIPE is a Python file, or the name of a recipe that comes with this package:"""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console

from keras_adavit.commands.arguments import parse
from keras_adavit.data.sources import BY_NAME, change_source
from keras_adavit.errors import InputError
from keras_adavit.experiments.folder import find_run
from keras_adavit.experiments.recipe import Recipe
from keras_adavit.experiments.recipe_file import find_recipe, load_recipe, recipe_names
from keras_adavit.experiments.run import run


def main(arguments):
    """Runs the command; raises `InputError`."""
    arguments, folder = take(arguments, "--resume", "the folder of a run")
    if folder is None and (not arguments or arguments[0].startswith("-")):
        print(__doc__ + ", ".join(recipe_names()))
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    if folder is not None and arguments and arguments[0].startswith("-"):
        raise InputError(f"`--resume` takes no other options but those behind a recipe. Received: {arguments[0]}")
    recipe = parse_recipe(arguments) if arguments else None
    if folder is not None:
        folder = Path(folder)
        recipe = find_run(folder, recipe)
        if recipe is None:
            print(f"The run in {folder} is finished")
            return 0
    run(recipe, Console(), folder)
    return 0


def take(arguments, option, wanted):
    """The arguments without an option and its value, and the value, or `None`.

    Args:
        arguments: List of strings.
        option: Such as `--resume`.
        wanted: What its value is, for the error's sentence.

    Raises:
        InputError: If the option has no value.
    """
    for index, argument in enumerate(arguments):
        if argument == option or argument.startswith(f"{option}="):
            _, sign, value = argument.partition("=")
            rest = arguments[index + 1 :]
            if not sign:
                value, rest = (rest[0], rest[1:]) if rest else ("", rest)
            if not value or value.startswith("-"):
                raise InputError(f"`{option}` must be followed by {wanted}. Received: {value or 'nothing'}")
            return arguments[:index] + rest, value
    return arguments, None


def parse_recipe(arguments):
    """The recipe of a file or a name, the first of the arguments, with what the others change in it."""
    recipe = load_recipe(find_recipe(arguments[0]))
    changes, source = take(arguments[1:], "--data.source", f"one of {', '.join(BY_NAME)}")
    if source is not None:
        recipe = dataclasses.replace(recipe, data=change_source(recipe.data, source))
    return parse(
        Recipe,
        default=recipe,
        args=changes,
        prog=f"keras-adavit train {arguments[0]}",
        description="Trains what the recipe says; with --resume FOLDER, goes on with a run of it that was stopped. "
        f"--data.source, one of {', '.join(BY_NAME)}, takes the images from another kind of source, whose fields then "
        "stand below. Every field can be overridden:",
        config=(tyro.conf.AvoidSubcommands,),
    )
