"""The folder of a run's results: its own, or a sentence before any training."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from keras_adavit.commands.main import main
from keras_adavit.errors import InputError
from keras_adavit.experiments import Digits, Recipe
from keras_adavit.experiments.recipe_file import load_recipe
from keras_adavit.experiments.run import new_folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def start(seed, output=None):
    """The folder of a run, with its seed to know it by, or the sentence."""
    try:
        return str(new_folder(Recipe(name="digits", data=Digits(), output=output, seed=seed)))
    except InputError as error:
        return str(error)


def test_runs_that_start_at_once_have_a_folder_each():
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(start, range(48)))
    assert sorted(folders) == sorted(["runs/digits", *(f"runs/digits-{number}" for number in range(2, 49))])
    assert [load_recipe(f"{folder}/recipe.py").seed for folder in folders] == list(range(48))


@pytest.mark.parametrize("there", [False, True])
def test_of_runs_that_are_given_one_folder_one_starts(there, tmp_path):
    for number in range(20):
        output = f"out-{number}"
        if there:
            (tmp_path / output).mkdir()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(start, range(8), [output] * 8))
        (winner,) = [seed for seed, text in enumerate(found) if text == output]
        assert load_recipe(f"{output}/recipe.py").seed == winner
        refused = f"`output` must be a new or an empty folder. Received: output='{output}'"
        assert found.count(refused) == 7


def start_in(folder, *arguments):
    os.chdir(folder)
    return start(*arguments)


@pytest.mark.slow
def test_processes_that_start_at_once_have_a_folder_each(tmp_path, monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))  # what is imported once, before they fork
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras_adavit.experiments.run"])
    with ProcessPoolExecutor(4, context) as pool:
        folders = list(pool.map(start_in, [tmp_path] * 16, range(16)))
        outputs = list(pool.map(start_in, [tmp_path] * 8, range(8), ["out"] * 8))
    assert len(set(folders)) == 16
    assert [load_recipe(f"{folder}/recipe.py").seed for folder in folders] == list(range(16))
    assert outputs.count("out") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "file"], "`output` must be a new or an empty folder. Received: output='file'"),
        (["--output", "file/out"], "file/out cannot be written. Received: Not a directory"),
        (["--output", "x" * 300], "`output` must be the name of a file or a folder or None. Received: output='xx"),
        (["--output", "/dev/null/out"], "/dev/null/out cannot be written. Received: Not a directory"),
        (["--output", "/proc/out"], "/proc/out cannot be written. Received: No such file or directory"),
        (["--name", "x" * 300], "`name` must be the name of one folder, without slashes. Received: name='xx"),
        ([], "runs/digits cannot be written. Received: Not a directory"),
    ],
)
def test_places_for_no_results_are_told_before_any_training(arguments, message, request, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    if not arguments:
        (tmp_path / "runs").write_text("mine too")
    before = sorted(tmp_path.rglob("*"))
    tiny = ["--model.width", "12", "--model.depth", "2", "--model.num-heads", "3", "--data.repeats", "1"]
    code = main(["train", str(request.config.rootpath / "recipes" / "digits.py"), *tiny, *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs" or path in before] == before


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_is_told_before_any_training(there, tmp_path, monkeypatch):
    def fail(file):
        raise OSError(28, "No space left on device")

    if there:
        Path("out").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(os, "fsync", fail)
    assert start(0, "out") == "out/recipe.py cannot be written. Received: No space left on device"
    assert sorted(tmp_path.rglob("*")) == before
    assert start(0) == "runs/digits/recipe.py cannot be written. Received: No space left on device"
    assert not Path("runs/digits").exists()
