"""A run killed at any moment: every file that exists is readable, the last epoch that ended is on disk, it goes on."""

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

from keras_adavit.commands.main import main
from keras_adavit.experiments.recipe_file import load_recipe
from keras_adavit.models.saved import load_model
from keras_adavit.weights.transfer import weights_by_path

TESTS = Path(__file__).parent.parent
# Of trainings, and with `--exhaustive`.
KILLS = {"torch": (1, 20), "tensorflow": (0, 20), "jax": (0, 5)}
TINY = [
    *("--model.width", "12", "--model.depth", "2", "--model.num-heads", "3", "--batch-size", "256", "--xla", "False"),
    *("--data.repeats", "1", "--dense.epochs", "2", "--adaptive.epochs", "3", "--checkpoint-minutes", "1e-9"),
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


def check_end(folder, whole):
    """Checks that a run ended as one that nobody killed."""
    for kind in ("dense", "adaptive"):
        rows = list(csv.DictReader((folder / kind / "history.csv").read_text().splitlines()))
        assert [int(row["epoch"]) for row in rows] == list(range({"dense": 2, "adaptive": 3}[kind]))
        found, expected = (weights_by_path(load_model(each / kind / "last.keras")) for each in (folder, whole))
        for name, value in expected.items():
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(found[name]), keras.ops.convert_to_numpy(value), err_msg=f"{kind} {name}"
            )
    assert set(json.loads((folder / "results.json").read_text())) == {"dense", "adaptive", "timing"}
    with Image.open(folder / "policy.png") as picture:
        picture.load()


@pytest.mark.slow
def test_killed_trainings(tmp_path, request, exhaustive):
    kills = KILLS[keras.backend.backend()][exhaustive]
    if not kills:
        pytest.skip("trainings are killed on torch, which starts quickest, and elsewhere with `--exhaustive`")
    recipe = str(request.config.rootpath / "recipes" / "digits.py")
    assert main(["train", recipe, *TINY, "--output", str(tmp_path / "whole")]) == 0
    check_end(tmp_path / "whole", tmp_path / "whole")
    runs = kill("train", tmp_path, kills, recipe, *TINY)
    assert sum(run["killed"] for run in runs) >= kills / 2
    for run in runs:
        folder = check_run(run, steps=1437 // 256)
        if not (folder / "recipe.py").exists():
            continue  # killed before it had begun
        assert load_recipe(folder / "recipe.py").output == str(folder)
        assert main(["train", "--resume", str(folder)]) == 0
        check_end(folder, tmp_path / "whole")


@pytest.mark.slow
def test_killed_saves(tmp_path, exhaustive):
    if keras.backend.backend() != "torch" and not exhaustive:
        pytest.skip("saves are killed on torch, which starts quickest, and elsewhere with `--exhaustive`")
    runs = kill("save", tmp_path, 200 if exhaustive else 10)
    assert all(run["killed"] for run in runs)
    assert any(run["hit"] for run in runs)
    for run in runs:
        check_run(run, steps=1)
