import dataclasses
import runpy
from pathlib import Path

import pytest

from keras_adavit.errors import InputError
from keras_adavit.experiments import (
    AdaptiveTraining,
    BudgetLoss,
    Digits,
    ImageFolder,
    MergePolicy,
    Model,
    Recipe,
    TopKPolicy,
    Training,
)
from keras_adavit.experiments.recipe_file import load_recipe, save_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_load_and_say_their_command(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert f"python train.py recipes/{path.name}" in runpy.run_path(str(path))["__doc__"]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(name="a", data=Digits(clutter=2), budget=BudgetLoss(macs_target=0.4), xla=True),
        Recipe(name="b", data=ImageFolder("some where/it's"), adaptive=AdaptiveTraining(final_temperature=1.0)),
        Recipe(name="c", data=Digits(), model=Model(patch_size=4, stem="conv")),
        Recipe(name="d", data=Digits(), adaptive=AdaptiveTraining(policy=TopKPolicy(0.5, blocks=(1,)))),
        Recipe(name="e", data=Digits(), adaptive=AdaptiveTraining(policy=MergePolicy(2))),
    ],
    ids=lambda recipe: recipe.name,
)
def test_saved_recipe_is_the_same_recipe(recipe, tmp_path):
    save_recipe(recipe, tmp_path / "recipe.py")
    assert load_recipe(tmp_path / "recipe.py") == recipe


def test_a_file_that_is_none_suggests_the_nearest(tmp_path):
    (tmp_path / "digits.py").write_text("")
    with pytest.raises(InputError, match=r"did you mean .*digits\.py"):
        load_recipe(tmp_path / "digit.py")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("recipe = 3", "must define `recipe = Recipe"),
        ("\nrecipe = ", r"recipe\.py, line 2: a recipe must be Python that runs\. Received: SyntaxError"),
        (
            "import no_such_module",
            r"line 1: a recipe must be Python that runs\. Received: ModuleNotFoundError: No module",
        ),
        ("x = 1\n\nrecipe = 1 / x - 1 / 0", r"line 3: .* Received: ZeroDivisionError: division by zero$"),
        ("def f():\n    f()\nf()", "line 2: .* Received: RecursionError"),
        ("import sys\nsys.exit(0)", "line 2: .* Received: SystemExit: 0$"),
        ("raise Exception('two\\nlines')", "line 1: .* Received: Exception: two lines$"),
        ("a = '\0'", "a recipe must be Python that runs"),
        ("class R:\n    def __repr__(self): 1 / 0\nrecipe = R()", "Received: recipe=a value of the type R$"),
        (
            "from keras_adavit.experiments import *\nrecipe = Recipe(name='x', data=Digits(clutter=-1))",
            "line 2: `clutter` must be a whole number from 0 to 100. Received: clutter=-1$",
        ),
    ],
)
def test_files_that_define_no_recipe_are_refused(source, message, tmp_path):
    (tmp_path / "recipe.py").write_text(source)
    with pytest.raises(InputError, match=message):
        load_recipe(tmp_path / "recipe.py")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Training(epochs=-1), "`epochs` must be a whole number from 0 to 100000. Received: epochs=-1"),
        (lambda: Training(warmup=1.0), r"`warmup` must be a number in \[0, 1\). Received: warmup=1.0"),
        (
            lambda: Training(warmup=0.6, cooldown=0.5),
            "`cooldown` must leave the share of `warmup`: together at most 1. Received: cooldown=0.5, warmup=0.6",
        ),
        (
            lambda: AdaptiveTraining(budget_ramp=1.5),
            r"`budget_ramp` must be a number in \[0, 1\]. Received: budget_ramp=1.5",
        ),
        (lambda: AdaptiveTraining(gate_learning_rate=0.0), "`gate_learning_rate` must be a positive number"),
        (
            lambda: dataclasses.replace(Recipe(name="a", data=Digits()), batch_size=0),
            "`batch_size` must be a whole number from 1 to 1048576. Received: batch_size=0",
        ),
    ],
)
def test_impossible_values_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
