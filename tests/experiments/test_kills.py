"""A run killed at any moment: every file that exists is readable, and the last epoch that ended is on disk."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_adavit.experiments.recipe_file import load_recipe
from keras_adavit.models.saved import load_model

TESTS = Path(__file__).parent.parent
# Of trainings, without `--exhaustive`: on JAX each start compiles for a minute.
KILLS = {"torch": 3, "tensorflow": 2, "jax": 0}
TINY = [
    *("--model.width", "12", "--model.depth", "2", "--model.num-heads", "3", "--batch-size", "256", "--xla", "False"),
    *("--data.repeats", "1", "--dense.epochs", "2", "--adaptive.epochs", "3"),
]


def kill(what, folder, kills, *arguments):
    """What tests/killed.py did: a list of dicts."""
    command = [sys.executable, str(TESTS / "killed.py"), what, str(folder), str(kills), "0", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    runs = [json.loads(line) for line in ran.stdout.splitlines()]
    print(f"{len(runs)} runs, {sum(run['killed'] for run in runs)} killed, {sum(run['hit'] for run in runs)} in a save")
    assert len(runs) == kills
    return runs


def check_training(folder, reported, steps):
    """Checks one training's files, of which `reported` epochs were reported as ended."""
    rows = []
    if (folder / "history.csv").exists():
        rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
        assert [int(row["epoch"]) for row in rows] == list(range(len(rows)))
        assert all(np.isfinite(float(value)) for row in rows for value in row.values())
        assert rows  # the file comes with its first row
    assert reported <= len(rows) <= reported + 1
    saved = 0
    if (folder / "last.keras").exists():
        saved = int(load_model(folder / "last.keras").step) / steps
    assert len(rows) <= saved <= len(rows) + 1
    assert saved == int(saved)
    if (folder / "best.keras").exists():
        assert 1 <= int(load_model(folder / "best.keras").step) / steps <= saved


def check_run(run, steps):
    folder = Path(run["folder"])
    for path in folder.rglob("*.keras"):
        if not path.parent.name.startswith(".unfinished-"):
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
    for kind in ("dense", "adaptive"):
        reported = [line for line in run["printed"].splitlines() if line.startswith(f"{kind} ")]
        check_training(folder / kind, len(reported), steps)
    return folder


@pytest.mark.slow
def test_killed_trainings(tmp_path, request, exhaustive):
    kills = 50 if exhaustive else KILLS[keras.backend.backend()]
    if not kills:
        pytest.skip("trainings are killed on JAX with `--exhaustive` alone")
    recipe = str(request.config.rootpath / "recipes" / "digits.py")
    runs = kill("train", tmp_path, kills, recipe, *TINY)
    assert sum(run["killed"] for run in runs) >= kills / 2
    for run in runs:
        folder = check_run(run, steps=1437 // 256)
        if (folder / "recipe.py").exists():
            assert load_recipe(folder / "recipe.py").output == str(folder)
        if (folder / "results.json").exists():
            assert set(json.loads((folder / "results.json").read_text())) == {"dense", "adaptive"}
        if (folder / "policy.png").exists():
            with Image.open(folder / "policy.png") as picture:
                picture.load()
        if not run["killed"]:
            assert (folder / "policy.png").exists(), run["printed"]


@pytest.mark.slow
def test_killed_saves(tmp_path, exhaustive):
    if keras.backend.backend() != "torch" and not exhaustive:
        pytest.skip("saves are killed on torch, which starts quickest, and elsewhere with `--exhaustive`")
    runs = kill("save", tmp_path, 200 if exhaustive else 10)
    assert all(run["killed"] for run in runs)
    assert any(run["hit"] for run in runs)
    for run in runs:
        check_run(run, steps=1)
