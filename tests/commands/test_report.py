"""`keras-adavit report` as a user runs it."""

import hashlib

import keras
import numpy as np
import pytest
from gated import make_model

import keras_adavit as ka
from keras_adavit.commands.main import main

NAMES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A model, and a data set of its classes in `data`."""
    monkeypatch.chdir(tmp_path)
    model = make_model(depth=2)
    model.class_names, model.preprocessing = NAMES, ka.Preprocessing(crop_fraction=0.9)
    model.save("model.keras")
    for split, count in (("train", 1), ("val", 3)):
        for label, name in enumerate(NAMES):
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng(10 * label + index).integers(0, 256, (40, 30, 3))
                keras.utils.save_img(place / f"{index}.png", pixels, scale=False)
    return tmp_path


def run(capsys, *arguments):
    """Exit code, standard output and standard error, each in one line."""
    capsys.readouterr()
    code = main(["report", *arguments])
    return code, *(" ".join(text.split()) for text in capsys.readouterr())


def test_a_page_about_the_last_model_of_a_run(folder, capsys):
    (folder / "run" / "adaptive").mkdir(parents=True)
    model = (folder / "model.keras").rename(folder / "run" / "adaptive" / "last.keras")
    before = model.read_bytes()
    arguments = ("run", "--data", "data", "--out", "pages/new", "--macs", "0.8", "0.6", "--batch-size", "4")
    assert run(capsys, *arguments) == (0, "Wrote pages/new/report.html", "")
    page = (folder / "pages" / "new" / "report.html").read_text(encoding="utf-8")
    for part in (
        f"keras-adavit report {' '.join(arguments)}",
        f"run/adaptive/last.keras, SHA-256 {hashlib.sha256(before).hexdigest()}",
        "15 validation images of 5 classes",
        "against time",
        "elk",
    ):
        assert part in page
    assert [path.name for path in (folder / "pages" / "new").iterdir()] == ["report.html"]
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.keras", "--out", "x"], "Received: none.keras"),
        (["empty", "--out", "x"], "or the folder of a run with adaptive/last.keras. Received: empty"),
        (["model.keras", "--out", "x"], "`--data` must be given for a model without a recipe beside it"),
        (["model.keras", "--data", "data", "--out", "file"], "`--out` must be a folder, or a name for a new one"),
        (["model.keras", "--data", "data", "--out", "file/x"], "Received: file/x; file is none"),
        (["model.keras", "--data", "data", "--out", "taken"], "`--out` must have room for a file report.html"),
        (
            ["model.keras", "--data", "nowhere", "--out", "x"],
            "`--data` must be a recipe (.py) or a folder of images. Received: nowhere",
        ),
        (["model.keras", "--data", "data", "--out", "x", "--calibration-images", "0"], "`calibration_images` must be"),
        (["model.keras", "--data", "data", "--out", "x", "--macs", "0.00001"], "`macs` must be within the reach"),
        (["dense.keras", "--data", "data", "--out", "x"], "The model must have gates, to have something to report"),
    ],
)
def test_wrong_arguments(arguments, message, folder, capsys):
    (folder / "empty").mkdir()
    (folder / "file").touch()
    (folder / "taken" / "report.html").mkdir(parents=True)
    if arguments[0] == "dense.keras":
        sizes = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "num_heads": 3}
        ka.AdaViTClassifier(ka.AdaViTBackbone(**sizes), 5).save("dense.keras")
    before = sorted(folder.rglob("*"))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(folder.rglob("*")) == before
