"""`keras-adavit train` and `evaluate` as a user runs them."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

from keras_adavit import data as ka_data
from keras_adavit.commands.main import main
from keras_adavit.commands.train import parse_recipe

# Without XLA: to compile takes longer than to train for so short.
TINY = [
    *("--model.width", "24", "--model.depth", "2", "--model.num-heads", "3", "--batch-size", "8", "--xla", "False"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipe(request):
    return str(request.config.rootpath / "recipes" / "digits.py")


@pytest.fixture
def folder(tmp_path):
    """A folder of three classes, some of 40 × 30 pixels, some grey."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for label in range(3):
            place = tmp_path / "photos" / split / f"class_{label}"
            place.mkdir(parents=True)
            for index in range(count):
                channels = 1 if index == 0 else 3
                pixels = rng.integers(0, 80, (30, 40, channels)) + 80 * label
                keras.utils.save_img(place / f"{index}.png", pixels, scale=False)
    return tmp_path / "photos"


def run(capsys, command, *arguments):
    """Exit code and what was printed, in one line."""
    capsys.readouterr()
    try:
        code = main([command, *arguments])
    except SystemExit as stop:  # tyro, for arguments that it does not know
        code = stop.code
    out, err = capsys.readouterr()
    return code, " ".join((out + err).split())


@pytest.mark.slow
def test_digits_from_start_to_end(recipe, capsys, tmp_path):
    code, text = run(capsys, "train", recipe, "--smoke", "--output", "out", *TINY)
    assert code == 0
    for part in (
        "top-1 accuracy",
        "share of dense",
        "tokens used",
        "blank patches kept",
        "training time",
        "tensorboard",
    ):
        assert part in text
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    models = {
        f"{kind}/{name}" for kind in ("dense", "adaptive") for name in ("best.keras", "last.keras", "history.csv")
    }
    assert models | {"recipe.py", "results.json", "policy.png"} <= written
    assert any(path.startswith("tensorboard/adaptive/train/") for path in written)
    assert (tmp_path / "out" / "policy.png").read_bytes().startswith(b"\x89PNG")
    header = (tmp_path / "out" / "adaptive" / "history.csv").read_text().splitlines()[0].split(",")
    assert {"epoch", "loss", "task_loss", "token_usage", "macs_share", "val_accuracy", "val_macs_share"} <= set(header)

    code, text = run(capsys, "evaluate", "out/adaptive/last.keras", "--json", "found.json")
    assert code == 0
    for part in ("top-5 accuracy", "MACs, 5th to 95th percentile", "Used, by block"):
        assert part in text
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"] == 1800
    assert len(found["token_usage"]) == 2
    assert found["macs_p5"] <= found["macs_mean"] <= found["macs_p95"]

    model = keras.saving.load_model("out/adaptive/last.keras")
    assert model.optimizer.variables[0].shape == ()
    assert int(model.step) == 5

    # The recipe as it ran runs again, from the trained dense model.
    arguments = ["--dense-model", "out/dense/last.keras", "--output", "again"]
    code, text = run(capsys, "train", "out/recipe.py", *arguments)
    assert code == 0, text
    assert not (tmp_path / "again" / "dense").exists()


@pytest.mark.slow
def test_image_folder_from_start_to_end(folder, capsys, request, tmp_path):
    recipe = str(request.config.rootpath / "recipes" / "image_folder.py")
    (folder / "train" / "class_1" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    arguments = [recipe, "--smoke", "--data.path", str(folder), "--data.image-size", "16", *TINY]

    code, text = run(capsys, "train", *arguments)
    assert code == 2
    assert "class_1/3.png" in text
    assert not (tmp_path / "runs").exists()

    # With mixed labels in training and whole ones in validation.
    options = ["--data.on-bad-image", "skip", "--data.augment.mixup", "0.8", "--data.augment.randaugment", "9"]
    code, text = run(capsys, "train", *arguments, *options)
    assert code == 0, text
    assert "Left out 1 images" in text
    assert "35 training and 12 validation images, 3 classes" in text

    model = "runs/image_folder/adaptive/last.keras"
    # With the recipe's own options: bad images are left out here too.
    code, text = run(capsys, "evaluate", model, "--data", str(folder))
    assert code == 0, text
    assert "12 images" in text


def break_nothing(folder):
    pass


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def lose_a_class(folder):
    shutil.rmtree(folder / "test" / "class_2")


def truncate(folder):
    path = folder / "test" / "class_0" / "2.png"
    path.write_bytes(path.read_bytes()[:200])


def mislabel(folder):
    (folder / "train" / "class_0" / "1.png").write_text("<html>not found</html>")


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (shutil.rmtree, [], "`path` must be a folder"),
        (empty, [], "`path` must hold a folder `train`"),
        (lose_a_class, [], "only in `train`: 'class_2'"),
        (truncate, [], "test/class_0/2.png"),
        (mislabel, [], "train/class_0/1.png"),
        (break_nothing, ["--model.patch-size", "5"], "`image_size` must be a multiple of `patch_size`"),
        (
            break_nothing,
            ["--budget.token-target", "1.5"],
            "`token_target` must be a number in (0, 1], a schedule or None. Received",
        ),
        (break_nothing, ["--budget.macs-target", "0"], "`macs_target` must be in (0, 1]"),
        (break_nothing, ["--budget.macs-target", "0.001"], "`macs_target` must be a share in"),
        (break_nothing, ["--model.widht", "64"], "--model.width"),
        (break_nothing, ["--adaptive.epochs", "many"], "invalid"),
        (break_nothing, ["--dense-model", "nothing.keras"], "nothing.keras, which is no file"),
        (break_nothing, ["--data.on-bad-image", "ignore"], "invalid choice"),
    ],
)
def test_wrong_input_is_met_with_a_sentence_and_code_2(damage, arguments, message, folder, capsys, request, tmp_path):
    damage(folder)
    recipe = str(request.config.rootpath / "recipes" / "image_folder.py")
    before = sorted(tmp_path.rglob("*"))
    code, text = run(capsys, "train", recipe, "--data.path", str(folder), "--data.image-size", "16", *TINY, *arguments)
    assert code == 2
    assert message in text
    assert sorted(tmp_path.rglob("*")) == before


# Keras's CSVLogger leaves its file open when training stops by an error.
@pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_image_that_training_stumbles_over_is_named(folder, capsys, request, tmp_path):
    import keras_adavit as ka

    recipe = str(request.config.rootpath / "recipes" / "image_folder.py")
    data = ["--data.path", str(folder), "--data.image-size", "16", "--data.no-check-images"]
    mislabel(folder)
    code, text = run(capsys, "train", recipe, "--smoke", *data, *TINY)
    assert (code, "Every image must be a sound" in text) == (2, True)
    assert "train/class_0/1.png" in text

    truncate(folder)
    (tmp_path / "unchecked.py").write_text(
        "from keras_adavit.experiments import ImageFolder, Recipe\n"
        f"data = ImageFolder(path={str(folder)!r}, image_size=16, check_images=False)\n"
        "recipe = Recipe(name='unchecked', data=data)\n"
    )
    (folder / "train" / "class_0" / "1.png").unlink()
    backbone = ka.AdaViTBackbone(image_size=16, width=12, depth=2, num_heads=3, gates=ka.GateConfig())
    ka.AdaViTClassifier(backbone, num_classes=3).save("model.keras")
    for options in ([], ["--macs", "0.9"]):
        code, text = run(capsys, "evaluate", "model.keras", "--data", "unchecked.py", *options)
        assert (code, "test/class_0/2.png" in text) == (2, True), text


def test_results_are_never_overwritten(recipe, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    code, text = run(capsys, "train", recipe, "--smoke", "--output", "out", *TINY)
    assert (code, [path.name for path in (tmp_path / "out").iterdir()]) == (2, ["precious.txt"])
    assert "`output` must be a new or an empty folder" in text


def test_help_and_missing_recipe(capsys, recipe):
    assert run(capsys, "train", "--help")[0] == 0
    assert run(capsys, "train")[0] == 2
    code, text = run(capsys, "train", recipe.replace("digits", "digit"))
    assert (code, "did you mean" in text) == (2, True)
    code, text = run(capsys, "train", recipe, "--help")
    assert code == 0
    for option in (
        "--data.source",
        "--budget.macs-target",
        "--gates.heads",
        "--data.clutter",
        "--adaptive.gate-learning-rate",
    ):
        assert option in text


def test_images_from_another_source_than_the_recipe_has(folder, capsys):
    assert run(capsys, "shards", str(folder), "shards")[0] == 0
    options = ["--data.source", "shards", "--data.path", "shards", "--data.augment.mixup", "0"]
    of_folder, of_shards = (parse_recipe(["ada_deit_small", *more]) for more in ([], options))
    before, after = of_folder.data, of_shards.data
    assert after == ka_data.Shards(
        path="shards",
        crop_fraction=before.crop_fraction,
        augment=dataclasses.replace(before.augment, mixup=0.0),
    )
    assert dataclasses.replace(of_shards, data=before) == of_folder
    assert after.load(4, seed=0).train_examples == 36
    assert parse_recipe(["ada_deit_small", "--data.source=folder"]) == of_folder
    assert isinstance(parse_recipe(["digits", "--data.source=tfds", "--data.name", "mnist"]).data, ka_data.Tfds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.source", "cloud"], "`data.source` must be one of digits, folder, hugging-face, shards, tfds."),
        (["--data.source"], "`--data.source` must be followed by one of digits, folder,"),
        (["--data.source", "tfds", "--data.path", "photos"], "--data.path"),
    ],
)
def test_a_source_that_is_none(options, message, recipe, capsys, tmp_path):
    code, text = run(capsys, "train", recipe, *options)
    assert (code, message in text) == (2, True), text
    assert list(tmp_path.iterdir()) == []


def test_a_model_file_of_something_else_is_refused(capsys, tmp_path):
    (tmp_path / "text.keras").write_text("no model")
    keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)]).save("other.keras")
    for name, message in (
        ("missing.keras", "which is no file"),
        ("text.keras", "or of another kind"),
        ("other.keras", "other.keras: it holds a Sequential in the place of an AdaViTClassifier"),
    ):
        code, text = run(capsys, "evaluate", name, "--data", "photos")
        assert code == 2
        assert message in text


def test_evaluation_needs_data_that_fits(capsys, folder, tmp_path):
    import keras_adavit as ka

    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=1, num_heads=2)
    ka.AdaViTClassifier(backbone, num_classes=7).save("model.keras")
    code, text = run(capsys, "evaluate", "model.keras")
    assert (code, "`--data` must be given" in text) == (2, True)
    code, text = run(capsys, "evaluate", "model.keras", "--data", str(folder))
    assert (code, "The data must have 7 classes, as the model. Received: 3 classes" in text) == (2, True)
    code, text = run(capsys, "evaluate", "model.keras", "--data", str(folder), "--json", "no/such/folder.json")
    assert (code, "`--json` must be a file in an existing folder" in text) == (2, True)


def test_a_model_says_how_a_folder_is_read(folder, tmp_path):
    import keras_adavit as ka
    from keras_adavit.commands.evaluate import find_data

    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=1, num_heads=2)
    model = ka.AdaViTClassifier(backbone, 3, preprocessing=ka.Preprocessing(0.5, (0.1, 0.2, 0.3), (1, 2, 3)))
    (tmp_path / "run" / "adaptive").mkdir(parents=True)
    path = tmp_path / "run" / "adaptive" / "last.keras"
    expected = {"image_size": 8, "crop_fraction": 0.5, "mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}
    assert find_data(model, path, folder) == ka_data.ImageFolder(path=str(folder), **expected)

    (tmp_path / "run" / "recipe.py").write_text(
        "from keras_adavit.experiments import ImageFolder, Recipe\n"
        "data = ImageFolder(path='x', image_size=16, on_bad_image='skip')\n"
        "recipe = Recipe(name='run', data=data)\n"
    )
    found = find_data(model, path, folder)
    assert found == ka_data.ImageFolder(path=str(folder), on_bad_image="skip", **expected)
    model.preprocessing = None
    found = find_data(model, path, folder)
    assert found == ka_data.ImageFolder(path=str(folder), on_bad_image="skip", image_size=16)


def test_several_budgets_of_one_model(capsys, folder, tmp_path):
    import keras_adavit as ka

    backbone = ka.AdaViTBackbone(image_size=16, patch_size=4, width=12, depth=2, num_heads=3, gates=ka.GateConfig())
    rng = np.random.default_rng(0)
    for block in backbone.blocks:
        block.token_gate.kernel.assign(rng.normal(size=block.token_gate.kernel.shape))
    ka.AdaViTClassifier(backbone, num_classes=3).save("model.keras")
    before = (tmp_path / "model.keras").read_bytes()
    arguments = ["model.keras", "--data", str(folder), "--json", "curve.json", "--execution", "packed", "--macs"]
    code, text = run(capsys, "evaluate", *arguments, "0.8", "0.6")
    assert (code, "One model at several budgets" in text) == (0, True)
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert list(curve) == ["0.6", "0.8"]
    for budget, found in curve.items():
        assert found["macs_share"] == pytest.approx(float(budget), rel=0.02)
        assert found["images"] == 12
    assert (tmp_path / "model.keras").read_bytes() == before
    for wrong, message in (
        (["0.5", "--policy", "open"], "`--macs` prints the learned policy"),
        (["0"], "`macs` must be positive numbers. Received: macs=(0.0"),
        (["0.001"], "within the reach of these gates"),
        (
            ["0.5", "--calibration-images", "0"],
            "`calibration_images` must be a whole number from 1 to 2",
        ),
    ):
        code, text = run(capsys, "evaluate", *arguments, *wrong)
        assert (code, message in text) == (2, True), text
