"""From given weights: the classifier alone, then the dense model, then gates; and what each training leaves alone."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from keras import ops
from PIL import Image
from rich.console import Console

import keras_adavit as ka
from keras_adavit.errors import InputError
from keras_adavit.experiments import (
    AdaptiveTraining,
    BudgetLoss,
    DenseTraining,
    DistillationLoss,
    ImageFolder,
    Model,
    Recipe,
    Training,
)
from keras_adavit.experiments.run import run
from keras_adavit.models.saved import load_model
from keras_adavit.training.callbacks import ProgressBar
from keras_adavit.weights.transfer import weights_by_path

SIZES = {"patch_size": 8, "width": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}


def weights(path):
    return {name: ops.convert_to_numpy(value) for name, value in weights_by_path(load_model(path)).items()}


def changed(before, after):
    """Names of what both have and what differs in them."""
    return {name for name in before.keys() & after.keys() if not np.array_equal(before[name], after[name])}


@pytest.fixture
def recipe(tmp_path):
    """Photos of three classes, of which a quarter is held out, and a dense model of five others at another size."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs", "newts")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 80, (30, 40, 3)) + 80 * label
            Image.fromarray(pixels.astype("uint8")).save(tmp_path / "photos" / name / f"{number}.png")
    backbone = ka.AdaViTBackbone(image_size=24, gates=None, **SIZES)
    ka.AdaViTClassifier(backbone, 5).save(tmp_path / "published.keras")
    return Recipe(
        name="finetune",
        data=ImageFolder(path=str(tmp_path / "photos"), image_size=32, validation_share=0.25),
        model=Model(**SIZES, weights=str(tmp_path / "published.keras")),
        budget=BudgetLoss(macs_target=0.6),
        classifier=Training(epochs=1, learning_rate=1e-2),
        dense=DenseTraining(epochs=1, layer_decay=0.5),
        adaptive=AdaptiveTraining(epochs=1, train="gates", reference_batch=8, calibrate=True),
        distillation=DistillationLoss(),
        batch_size=8,
        xla=False,
        output=str(tmp_path / "out"),
    )


@pytest.mark.slow
def test_three_trainings(recipe, tmp_path, capsys):
    folder = run(recipe, Console())
    text = " ".join(capsys.readouterr().out.split())
    assert "classifier: of 3 classes, the file's of 5" in text
    assert "positions interpolated from 3×3 to 4×4" in text
    given, trainings = weights(tmp_path / "published.keras"), ("classifier", "dense", "adaptive")
    classifier, dense, adaptive = (weights(folder / name / "last.keras") for name in trainings)
    head = {"head/kernel", "head/bias"}
    assert changed(given, classifier) == {*head, "position"}
    assert changed(classifier, dense) == set(dense)
    assert changed(dense, adaptive) == set()
    biases = [value for name, value in adaptive.items() if name.endswith("_gate/bias")]
    assert biases
    assert all((value != 3.0).all() for value in biases)  # what new gates have
    assert json.loads((folder / "results.json").read_text())["adaptive"]["macs_share"] == pytest.approx(0.6, rel=0.15)
    rows = list(csv.DictReader((folder / "split.csv").read_text().splitlines()))
    assert [row["split"] for row in rows].count("val") == 9
    model = load_model(folder / "adaptive" / "last.keras")
    assert model.class_names == ("cats", "dogs", "newts")
    assert model.preprocessing.crop_fraction == recipe.data.crop_fraction


@pytest.mark.slow
def test_a_stop_between_two_trainings_changes_nothing(recipe, tmp_path, monkeypatch):
    recipe = dataclasses.replace(
        recipe, dense=DenseTraining(epochs=1, drop_path=0.5), adaptive=AdaptiveTraining(epochs=0)
    )
    whole = run(dataclasses.replace(recipe, output=str(tmp_path / "whole")), Console(quiet=True))
    began, begin = [], ProgressBar.on_epoch_begin

    def stop_in_the_second(self, epoch, logs=None):
        began.append(self.title)
        if self.title == "dense":
            raise KeyboardInterrupt
        begin(self, epoch, logs)

    monkeypatch.setattr(ProgressBar, "on_epoch_begin", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, Console(quiet=True))
    assert began == ["classifier", "dense"]
    monkeypatch.undo()
    folder = run(recipe, Console(quiet=True), Path(recipe.output))
    assert changed(weights(whole / "dense" / "last.keras"), weights(folder / "dense" / "last.keras")) == set()
    seconds = json.loads((folder / "results.json").read_text())["dense"]["training_seconds"]
    assert seconds > 0


def test_a_new_classifier_needs_a_training(recipe, tmp_path):
    untrained = dataclasses.replace(recipe, classifier=Training(epochs=0), dense=DenseTraining(epochs=0))
    with pytest.raises(InputError, match=r"`classifier.epochs` or `dense.epochs` must be 1 or more where the classes"):
        run(untrained, Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_weights_of_other_sizes(recipe, tmp_path):
    other = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, width=24))
    with pytest.raises(InputError, match=r"The checkpoint must fit the model"):
        run(other, Console(quiet=True))
    missing = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, weights="none.pth"))
    with pytest.raises(InputError, match=r"`weights` must be 'imagenet', or the path of"):
        run(missing, Console(quiet=True))
    assert not (tmp_path / "out").exists()
