"""Trains what a recipe says: a dense vision transformer, then an adaptive one from its weights.

usage: keras-adavit train RECIPE [--FIELD VALUE ...]

  keras-adavit train digits
  keras-adavit train my_recipe.py --budget.macs-target 0.3 --adaptive.epochs 20
  keras-adavit train digits --help          lists every field of the recipe
  KERAS_BACKEND=torch keras-adavit train digits

RECIPE is a Python file, or the name of a recipe that comes with this package:"""

import tyro
from rich.console import Console

from keras_adavit.commands.arguments import parse
from keras_adavit.experiments.recipe import Recipe, find_recipe, load_recipe, recipe_names
from keras_adavit.experiments.run import run


def main(arguments):
    """Runs the command; raises `InputError`."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__ + ", ".join(recipe_names()))
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    recipe = parse(
        Recipe,
        default=load_recipe(find_recipe(arguments[0])),
        args=arguments[1:],
        prog=f"keras-adavit train {arguments[0]}",
        description="Trains what the recipe says. Every field can be overridden:",
        config=(tyro.conf.AvoidSubcommands,),
    )
    run(recipe, Console())
    return 0
