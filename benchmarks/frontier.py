"""Trains an adaptive model and its rivals, or goes on with them, and writes what they reach at what cost.

    python benchmarks/frontier.py cifar10 --archive cifar10.tar.gz --runs ~/frontier --only start adaptive-0.5 dense
    python benchmarks/frontier.py cifar10 --runs ~/frontier --measure

Every model is a run of its own below `--runs`, which goes on where it was stopped when the same command comes again.
`--measure` evaluates those that are finished and writes `benchmarks/results/frontier-DATA.json` and a figure. Models
are trained in the order of `rivals.py`.
"""

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rivals import EPOCHS, rivals

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ARCHIVED = {"cifar10": "cifar10", "tiny_imagenet": "tiny_imagenet_100"}  # the folder in the archive


@dataclass
class Arguments:
    """Trains the models of the frontier, or measures them."""

    data: Annotated[Literal["cifar10", "tiny_imagenet"], tyro.conf.Positional]
    """The data set."""
    runs: Path
    """Folder of the runs."""
    archive: Path | None = None
    """Archive of the images (.tar.gz), unpacked into `--runs` once."""
    epochs: int = EPOCHS
    """Epochs of every model, in all, those of its dense phase included; the same for all of a folder."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, each of which trains every model."""
    only: tuple[str, ...] = ()
    """Names of models; all if not given."""
    measure: bool = False
    """Evaluate what is trained, and write the results."""


def main():
    """Runs the command."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.epochs < 2:
        sys.exit(f"error: `--epochs` must be 2 or more, some of them with gates. Received: {arguments.epochs}")
    images = unpack(arguments)
    if arguments.measure:
        from frontier_results import write_results

        write_results(arguments.data, images, arguments.runs / arguments.data, RESULTS)
        return 0
    for seed in arguments.seeds:
        folder = arguments.runs / arguments.data / f"seed-{seed}"
        recipes = rivals(arguments.data, images, seed, folder / "start" / "dense" / "last.keras", arguments.epochs)
        unknown = set(arguments.only) - set(recipes)
        if unknown:
            sys.exit(f"error: `--only` must be some of {', '.join(recipes)}. Received: {', '.join(unknown)}")
        for name, recipe in recipes.items():
            if not arguments.only or name in arguments.only:
                train(recipe, folder / name)
    return 0


def unpack(arguments):
    """The folder of the images, unpacked from their archive if it is not there."""
    folder = arguments.runs / "images" / ARCHIVED[arguments.data]
    if not folder.is_dir():
        if arguments.archive is None:
            sys.exit(f"error: `--archive` must be given where {folder} is not there yet. Received: none")
        unfinished = folder.parent / "unfinished"
        with tarfile.open(arguments.archive) as archive:
            archive.extractall(unfinished, filter="data")
        inner = unfinished / folder.name
        if (inner / "test").is_dir():
            (inner / "test").rename(inner / "val")
        inner.rename(folder)
    return folder


def train(recipe, folder):
    """Runs a recipe, or goes on with a run of it, in a process of its own."""
    from keras_adavit.experiments.recipe_file import load_recipe, save_recipe

    command, old = [sys.executable, str(ROOT / "train.py")], folder / "recipe.py"
    if not old.is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.parent / f"{folder.name}.py"
        save_recipe(recipe, file)
        arguments = [str(file), "--output", str(folder)]
    else:
        begun, now = (f"{each.dense.epochs} + {each.adaptive.epochs}" for each in (load_recipe(old), recipe))
        if begun != now:
            sys.exit(f"error: `--epochs` must be as {folder} was begun (dense + adaptive {begun}). Received: {now}")
        arguments = ["--resume", str(folder)]
    print(f"{folder.parent.name} {folder.name}", flush=True)
    subprocess.run([*command, *arguments], check=True, env={"KERAS_BACKEND": "tensorflow", **os.environ})


if __name__ == "__main__":
    sys.exit(main())
