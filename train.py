"""Trains what a recipe says: a dense vision transformer, then an adaptive one from its weights.

usage: python train.py RECIPE.py [--FIELD VALUE ...]

  python train.py recipes/digits.py
  python train.py recipes/digits.py --budget.macs-target 0.3 --adaptive.epochs 20
  python train.py recipes/digits.py --help          lists every field of the recipe
  KERAS_BACKEND=torch python train.py recipes/digits.py
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's remarks on start-up say nothing to a user


def main(arguments):
    """Runs the command and returns its exit code."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__.strip())
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2

    import tyro
    from rich.console import Console

    from keras_adavit.errors import InputError
    from keras_adavit.recipe import Recipe, load_recipe

    try:
        default = load_recipe(arguments[0])
        recipe = tyro.cli(
            Recipe,
            default=default,
            args=arguments[1:],
            prog=f"train.py {arguments[0]}",
            description="Trains what the recipe says. Every field can be overridden:",
            config=(tyro.conf.AvoidSubcommands,),
        )
        from keras_adavit.training.run import run

        run(recipe, Console())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ArithmeticError as error:
        print(f"error: training stopped: {error}; the models of the epochs before it are kept", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
