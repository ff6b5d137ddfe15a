"""A run that is stopped again and again ends as one that was not."""

import csv
import dataclasses
import json
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from rich.console import Console

from keras_adavit.commands.main import main
from keras_adavit.errors import InputError
from keras_adavit.experiments import (
    AdaptiveTraining,
    BudgetLoss,
    DenseTraining,
    Digits,
    DistillationLoss,
    Model,
    RandomPolicy,
    Recipe,
)
from keras_adavit.experiments.folder import find_run, locked
from keras_adavit.experiments.recipe_file import save_recipe
from keras_adavit.experiments.run import run
from keras_adavit.models.saved import load_model
from keras_adavit.training.callbacks import ProgressBar, StopEarly
from keras_adavit.training.checkpoint import Progress, save_progress
from keras_adavit.weights.transfer import weights_by_path

STEPS = 1437 // 256
RECIPE = Recipe(
    name="tiny",
    data=Digits(image_size=24, min_digit=12, max_digit=20, validation_draws=1),
    model=Model(patch_size=8, width=12, depth=2, num_heads=3, mlp_ratio=2.0),
    budget=BudgetLoss(macs_target=0.6),
    dense=DenseTraining(epochs=2, learning_rate=1e-3, drop_path=0.2, accumulate=2, average=0.8),
    adaptive=AdaptiveTraining(epochs=2, gate_learning_rate=1e-2, average=0.8, patience=5, final_temperature=1.0),
    distillation=DistillationLoss(),
    batch_size=256,
    xla=False,
    checkpoint_minutes=1e-9,  # after every batch
)


def weights(path):
    return {name: ops.convert_to_numpy(value) for name, value in weights_by_path(load_model(path)).items()}


def history(path):
    return [dict(row) for row in csv.DictReader(path.read_text().splitlines())]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nobody stopped."""
    return run(dataclasses.replace(RECIPE, output=str(tmp_path_factory.mktemp("runs") / "whole")), Console(quiet=True))


def stop_after(monkeypatch, batches):
    """Interrupts a training before its batch number `batches` is in a checkpoint."""
    seen = []

    def on_train_batch_end(self, batch, logs=None):
        seen.append(batch)
        if len(seen) == batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "on_train_batch_end", on_train_batch_end)


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again(whole, tmp_path, monkeypatch, capsys):
    recipe = dataclasses.replace(RECIPE, output=str(tmp_path / "run"))
    folder = None
    # Within an epoch, at its first batch, after several epochs, in either training; what is lost is one batch each.
    for batches in (3, STEPS, 4):
        stop_after(monkeypatch, batches)
        with pytest.raises(
            KeyboardInterrupt, match=r"to go on: (KERAS_BACKEND=\w+ )?keras-adavit train --resume .*run$"
        ):
            run(recipe, Console(quiet=True), folder)
        folder = Path(recipe.output)
        with pytest.raises(InputError, match=r"^`output` must be a new or an empty folder"):
            run(recipe, Console(quiet=True))
    monkeypatch.undo()
    assert main(["train", "--resume", str(folder)]) == 0
    for kind in ("dense", "adaptive"):
        for file in ("last.keras", "best.keras"):
            found, expected = weights(folder / kind / file), weights(whole / kind / file)
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=f"{kind} {file} {name}")
        rows, others = history(folder / kind / "history.csv"), history(whole / kind / "history.csv")
        assert [row["epoch"] for row in rows] == [row["epoch"] for row in others] == ["0", "1"]
        for row, other in zip(rows, others, strict=True):
            for name, value in other.items():
                assert float(row[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-4), name
    found, expected = (json.loads((each / "results.json").read_text()) for each in (folder, whole))
    assert found["adaptive"]["top1"] == expected["adaptive"]["top1"]
    assert not (folder / "checkpoint.npz").exists()
    capsys.readouterr()
    assert main(["train", "--resume", str(folder)]) == 0
    assert capsys.readouterr().out == f"The run in {folder} is finished\n"


@pytest.fixture
def stopped(tmp_path):
    """A folder as a run leaves it that was killed before its first checkpoint."""
    folder = tmp_path / "stopped"
    (folder / "tensorboard").mkdir(parents=True)
    save_recipe(RECIPE, folder / "recipe.py")
    return folder


def test_only_a_run_of_the_recipe_goes_on(stopped, tmp_path, capsys):
    assert find_run(stopped) == RECIPE
    assert find_run(stopped, RECIPE) == RECIPE
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "other.py").write_text(
        "from keras_adavit.experiments import *\nrecipe = Recipe(name='x', data=Digits())"
    )
    for arguments, message in (
        (["--resume", str(tmp_path)], "`--resume` must be the folder of a run, with its recipe.py and tensorboard"),
        (["--resume", str(tmp_path / "none")], "`--resume` must be the folder of a run"),
        (
            [str(tmp_path / "other.py"), "--resume", str(stopped)],
            "`--resume` must be the folder of a run of this recipe",
        ),
        (["--resume", str(stopped), "--seed", "1"], "`--resume` takes no other options but those behind a recipe"),
        (["--resume"], "`--resume` must be followed by the folder of a run. Received: nothing"),
    ):
        assert main(["train", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {message}")
        assert error.count("\n") == 1
    (tmp_path / "other.py").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_checkpoint_is_refused(stopped, capsys):
    (stopped / "checkpoint.npz").write_bytes(b"PK\3\4 and then nothing")
    assert main(["train", "--resume", str(stopped)]) == 2
    assert "The checkpoint must be whole. Received: " in capsys.readouterr().err


def test_other_data_and_another_backend_are_refused(stopped, capsys):
    for field, value in (("steps", STEPS + 1), ("backend", "numpy")):
        progress = Progress("dense", epoch=1, **{"steps": STEPS, "backend": keras.backend.backend(), field: value})
        save_progress(stopped / "checkpoint.npz", progress)
        assert main(["train", "--resume", str(stopped)]) == 2
        assert "`--resume` needs the data and the backend of the run" in capsys.readouterr().err


def test_two_processes_do_not_share_a_run(stopped):
    with locked(stopped), pytest.raises(InputError, match="must not be in use by another process"), locked(stopped):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dense": DenseTraining(epochs=0)}, "`dense.epochs` must be 1 or more without `model.weights`"),
        ({"classifier": DenseTraining(epochs=1)}, "`classifier.epochs` must be 0 without `model.weights`"),
        (
            {"adaptive": AdaptiveTraining(calibrate=True), "budget": BudgetLoss(token_target=0.5)},
            "`adaptive.calibrate` needs `budget.macs_target`, a number. Received: macs_target=None",
        ),
        ({"dense_model": "a.keras", "model": Model(weights="b.keras")}, "`dense_model`, .* without `model.weights`"),
    ],
)
def test_recipes_that_do_not_fit_themselves(options, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(RECIPE, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "ada_deit_smal"}, "`preset` must be that of a preset, such as ada_deit_small_patch16_224"),
        ({"preset": "ada_deit_small_patch16_224", "width": 64}, "`width` must not be given with a `preset`"),
        ({"weights": "imagenet"}, "`weights='imagenet'` needs a `preset`"),
    ],
)
def test_models_that_do_not_fit_themselves(options, message):
    with pytest.raises(InputError, match=message):
        Model(**options)


def test_a_training_stops_early_where_accuracy_no_longer_rises():
    def epochs(accuracies, rows=(), first_epoch=0):
        stop = StopEarly(2, first_epoch, rows)
        stop.set_model(types.SimpleNamespace(stop_training=False))
        for epoch, accuracy in enumerate(accuracies, start=len(rows)):
            if stop.is_over():
                return epoch
            stop.on_epoch_end(epoch, {"val_accuracy": accuracy})
        return None if not stop.model.stop_training else len(rows) + len(accuracies)

    assert epochs([0.1, 0.3, 0.2, 0.3, 0.9]) == 4
    assert epochs([0.1, 0.2, 0.3, 0.4]) is None
    assert epochs([0.9, 0.2, 0.1, 0.3, 0.2, 0.1], first_epoch=2) == 6
    past = [{"epoch": epoch, "val_accuracy": accuracy} for epoch, accuracy in enumerate([0.1, 0.3, 0.2])]
    assert epochs([0.3, 0.9], past) == 4
    assert epochs([0.4, 0.5], past) is None


def test_clipping_is_of_one_kind():
    with pytest.raises(InputError, match="`global_clip_norm` must come with `clip_norm=None`"):
        AdaptiveTraining(global_clip_norm=1.0)
    assert AdaptiveTraining(global_clip_norm=1.0, clip_norm=None, policy=RandomPolicy(tokens=0.5)).policy.tokens == 0.5
