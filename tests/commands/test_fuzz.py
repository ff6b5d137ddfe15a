"""Every option of every command with extreme values, through the real entry point, in process.

An outcome is success, or exit code 2 with a message that is no stack trace, with nothing written. `--exhaustive` runs
all cases; without it a share of them that is always the same. Where many cases would compute, they end where the
computation would begin; the largest and smallest values that are accepted are then computed with, all at once.
"""

import dataclasses
import random

import keras
import numpy as np
import pytest
from gated import make_model

import keras_adavit as ka
from keras_adavit.commands import evaluate, export
from keras_adavit.commands.main import main
from keras_adavit.experiments import run as running
from keras_adavit.experiments.recipe_file import load_recipe

VALUES = ["nan", "inf", "-inf", "0", "-1", "1", "0.5", "1.5", str(2**31), str(2**63), "1" + "0" * 30, "", "no", "None"]
VALUES += ["../../x", "\udcff", "x" * 300, "float64", ".", "missing", "true", "1 2", "é\n", "9" * 5000]
GATES = ka.GateConfig(first_gated_block=0)
SHARE = 40  # cases of each command where not all are run
TINY = ["--model.width", "24", "--model.depth", "2", "--model.num-heads", "3", "--xla", "False", "--smoke"]
TINY += ["--data.repeats", "1", "--data.validation-draws", "1"]


class AcceptedError(Exception):
    """Raised where the expensive part would begin."""


def accept(*args, **kwargs):
    raise AcceptedError


def options(settings, prefix="--"):
    """Every option of a settings object, those of the objects in it too."""
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            yield from options(value, f"{name}.")
        else:
            yield name


def cases(names, exhaustive):
    every = [(name, value) for name in names for value in VALUES]
    return every if exhaustive else random.Random(0).sample(every, SHARE)


def check(arguments, capsys):
    """Runs a command, and returns its exit code, 0 where it was accepted."""
    try:
        code = main(arguments)
    except AcceptedError:
        code = 0
    except SystemExit as stop:  # for arguments that cannot be parsed
        code = stop.code
    out, err = capsys.readouterr()
    assert code in (0, 2), (arguments, code, err)
    assert "Traceback" not in out + err, (arguments, err)
    if code == 2:
        assert out + err, arguments
        if err.startswith("error: "):
            assert err.count("\n") == 1, (arguments, err)
    return code


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")


@pytest.mark.slow
def test_train(request, exhaustive, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(running, "train_stages", accept)
    recipe = str(request.config.rootpath / "recipes" / "digits.py")
    codes = [check(["train", recipe, *TINY], capsys)]  # without an extreme it is accepted
    for name, value in cases(list(options(load_recipe(recipe))), exhaustive):
        before = files(tmp_path)
        codes.append(check(["train", recipe, *TINY, f"{name}={value}"], capsys))
        written = set(files(tmp_path)) - set(before)
        assert codes[-1] == 0 or not written, (name, value, written)
        inside = all(path.is_relative_to(tmp_path / "work" / "here") for path in written)
        assert inside or name == "--output", (name, value)  # the one field that may be any place
    assert {0, 2} == set(codes)


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes for images of 16 pixels."""
    for split, count in (("train", 8), ("val", 3)):
        for label in range(2):
            folder = tmp_path / "photos" / split / f"class_{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                keras.utils.save_img(folder / f"{index}.png", np.full((16, 16, 3), 9 * index + label), scale=False)
    return str(tmp_path / "photos")


def repeated(settings, name, value):
    """The arguments for an option of `settings`: the value as often as there are numbers in a tuple."""
    for part in name.removeprefix("--").split("."):
        settings = getattr(settings, part.replace("-", "_"))
    return [name, *[value] * len(settings)] if isinstance(settings, tuple) else [f"{name}={value}"]


@pytest.mark.slow
def test_train_on_a_folder(request, exhaustive, capsys, monkeypatch, photos):
    monkeypatch.setattr(running, "train_stages", accept)
    path = str(request.config.rootpath / "recipes" / "image_folder.py")
    recipe = load_recipe(path)
    given = ["train", path, *TINY[:-4], "--data.path", photos, "--data.image-size", "16", "--batch-size", "4"]
    names = list(options(recipe.data, "--data."))
    codes = [check([*given, *repeated(recipe, *case)], capsys) for case in cases(names, exhaustive)]
    assert {0, 2} == set(codes)


SMALLEST = {"seed": 0, "dense.learning-rate": 1e-15, "adaptive.gate-learning-rate": 1e-15, "dense.clip-norm": 1e-15}
SMALLEST |= {"gates.temperature": 1e-15, "adaptive.final-temperature": 1e-15, "budget.macs-target": 0.999999}
LARGEST = {"seed": 2**31 - 1, "dense.epochs": 100_000, "adaptive.epochs": 100_000, "name": "é" * 100}
LARGEST |= {"gates.temperature": 1e15, "adaptive.final-temperature": 1e15, "dense.clip-norm": 1e15}
DIVERGING = {"dense.learning-rate": 1e15, "dense.weight-decay": 1e15, "dense.clip-norm": "None"}


@pytest.mark.slow
@pytest.mark.parametrize(("fields", "codes"), [(SMALLEST, {0}), (LARGEST, {0}), (DIVERGING, {1})])
def test_extremes_that_are_accepted_train_or_stop_in_one_line(fields, codes, request, exhaustive, capsys):
    if fields is SMALLEST and not exhaustive:
        pytest.skip("half a minute")
    recipe = str(request.config.rootpath / "recipes" / "digits.py")
    small = [*TINY, "--batch-size", "8"]
    code = main(["train", recipe, *small, *[f"--{name}={value}" for name, value in fields.items()]])
    err = capsys.readouterr().err
    assert code in codes
    assert "Traceback" not in err
    assert code == 0 or err.count("\n") == 1


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    make_model(depth=2).save(path)
    return str(path)


@pytest.mark.slow
def test_evaluate(model_file, exhaustive, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "find_data", accept)
    names = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(evaluate.Arguments)][1:]
    codes = [check(["evaluate", model_file, f"{name}={value}"], capsys) for name, value in cases(names, exhaustive)]
    assert {0, 2} == set(codes)
    for value in VALUES:
        assert check(["evaluate", value], capsys) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("--batch-size 1048576", 0),
        ("--policy random --token-usage 0 --head-usage 0 --block-usage 0 --seed 2147483647", 0),
        ("--policy merge --merged 2147483647", 0),
        ("--policy topk --token-usage 1e-15", 0),
        ("--macs 1e15 1e-15", 2),
        ("--milliseconds 1e15 1e-15", 2),
        ("--macs 1 --calibration-images 2147483647 --batch-size 1048576", 0),
        ("--json /dev/full", 2),
    ],
)
def test_extremes_that_are_accepted_evaluate(options, code, photos, capsys, tmp_path):
    backbone = ka.AdaViTBackbone(image_size=16, patch_size=8, width=12, depth=1, num_heads=3, gates=GATES)
    ka.AdaViTClassifier(backbone, num_classes=2).save("model.keras")
    assert check(["evaluate", "model.keras", "--data", photos, *options.split()], capsys) == code


@pytest.mark.slow
def test_export(model_file, exhaustive, capsys, monkeypatch):
    monkeypatch.setattr(export, "export", accept)
    every = [("--format", value) for value in VALUES] + [("--execution", value) for value in VALUES]
    for name, value in every:
        given_none = (name, value) == ("--execution", "None")  # as if it were not given
        assert check(["export", model_file, "out", f"{name}={value}"], capsys) == (0 if given_none else 2)
    for value in VALUES:
        check(["export", model_file, value], capsys)
        assert check(["export", value, "out"], capsys) == 2


@pytest.mark.slow
def test_convert(fixtures, exhaustive, capsys):
    checkpoint = str(fixtures / "deit_micro_dense.pth")
    names = ["--preset", "--num-classes", "--image-size", "--names"]
    for name, value in cases(names, exhaustive):
        preset = [] if name == "--preset" else ["--preset", "ada_deit_tiny_patch16_224"]
        assert check(["convert", checkpoint, "model.keras", *preset, f"{name}={value}"], capsys) == 2
    for value in VALUES:
        assert check(["convert", value, "model.keras", "--preset", "ada_deit_tiny_patch16_224"], capsys) == 2
        assert check(["convert", checkpoint, value, "--preset", "ada_deit_tiny_patch16_224"], capsys) == 2


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train"], ["train", "missing.py"], ["evaluate"], ["\udcff"]])
def test_words_that_are_no_command(arguments, capsys):
    assert check(arguments, capsys) == 2
