import json
import os
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras.src.saving.serialization_lib import SafeModeScope

import keras_adavit as ka
from keras_adavit.models.saved import load_model

SIZES = {"image_size": 16, "patch_size": 16, "width": 8, "depth": 2, "num_heads": 2}


@pytest.fixture
def model():
    return ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES, gates=ka.GateConfig()), num_classes=3)


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def rewrite(path, **parts):
    """Replaces parts of a `.keras` file by functions of them, or leaves them out (`None`); its checksums agree."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            change = parts.get(name.split(".")[0], bytes)
            if change is not None:
                archive.writestr(name, change(content))


def edit(path, function):
    """Changes the configuration of a `.keras` file in place."""

    def change(content):
        config = json.loads(content)
        return json.dumps(function(config) or config).encode()

    rewrite(path, config=change)


def refuse(path, *parts):
    with pytest.raises(ka.InputError) as error:
        load_model(path)
    message = str(error.value)
    assert message.isprintable()
    for part in ("The model must be ", "Received: ", *parts):
        assert part in message


def test_sound_file(model, path):
    for found, expected in zip(load_model(path).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_file_of_a_model_that_does_not_know_what_it_was_trained_on(path):
    edit(path, lambda config: [config["config"].pop(name) for name in ("class_names", "preprocessing")] and None)
    model = load_model(path)
    assert (model.class_names, model.preprocessing) == (None, None)


def test_name_that_is_no_text(path, tmp_path):
    other = shutil.move(path, os.path.join(tmp_path, os.fsdecode(b"caf\xe9.keras")))
    assert load_model(other).num_classes == 3
    with open(other, "r+b") as file:
        file.truncate(100)
    refuse(other, r"caf\udce9.keras")


def test_name_without_the_suffix(path, tmp_path):
    refuse(path.rename(tmp_path / "model.zip"), "a .keras file")


@pytest.mark.parametrize("path", ["", "\0", "x" * 5000, "none.keras", "~nobody_of_this_name/x.keras", None, 3])
def test_paths_that_are_no_file(path):
    refuse(path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_folders_and_pipes(make, tmp_path):
    make(tmp_path / "model.keras")
    refuse(tmp_path / "model.keras", "which is no file")


def test_other_keras_model(tmp_path):
    keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    refuse(tmp_path / "other.keras", "a Sequential in the place of an AdaViTClassifier")


def set_backbone(key, value):
    return lambda config: config["config"]["backbone"]["config"].update({key: value})


@pytest.mark.parametrize("name", ["depth", "width", "image_size", "channels", "mlp_ratio", "num_classes"])
def test_sizes_that_the_file_cannot_hold(name, path):
    """They are refused before anything of such a size is made."""
    size = 16 * 10**9
    edit(path, set_backbone(name, size) if name in SIZES or name != "num_classes" else set_classes(size))
    refuse(path, "it is of a model of", "weights or more")


def set_classes(value):
    return lambda config: config["config"].update(num_classes=value)


def test_wide_tokens_that_the_file_cannot_hold(path):
    def change(config):
        config["config"]["backbone"]["config"].update(stem="t2t_performer", token_width=10**9)

    edit(path, change)
    refuse(path, "it is of a model of", "weights or more")


WRONG = {
    "text for a size": set_backbone("depth", "1000"),
    "no number": set_backbone("mlp_ratio", float("nan")),
    "infinite": set_backbone("mlp_ratio", float("inf")),
    "negative": set_backbone("depth", -1),
    "zero": set_backbone("patch_size", 0),
    "list for a size": set_backbone("width", [8]),
    "unknown stem": set_backbone("stem", "none"),
    "argument of the future": set_backbone("rotary", True),
    "other gates": set_backbone("gates", 3),
    "other depth": set_backbone("depth", 3),
    "other width": set_backbone("width", 4),
    "fewer classes": set_classes(2),
    "classes as text": set_classes("3"),
    "names of other classes": lambda config: config["config"].update(class_names=["a", "b"]),
    "names that are no text": lambda config: config["config"].update(class_names=[1, 2, 3]),
    "other preprocessing": lambda config: config["config"].update(preprocessing={"crop": 1}),
    "preprocessing of other channels": lambda config: config["config"].update(
        preprocessing={"mean": [0.5], "std": [0.5]}
    ),
    "code for preprocessing": lambda config: config["config"].update(
        preprocessing=keras.saving.serialize_keras_object(keras.layers.Dense(3))
    ),
    "no backbone": lambda config: config["config"].pop("backbone") and None,
    "no class": lambda config: config.pop("registered_name") and None,
    "class of the future": lambda config: config.update(registered_name="keras_adavit>AdaViTDetector"),
    "a list": lambda config: [1, 2],
    "text": lambda config: "AdaViTClassifier",
    "a number": lambda config: 3,
    "another class inside": lambda config: config["config"]["backbone"].update(
        registered_name=None, class_name="Dense", module="keras.layers"
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_configurations_of_something_else(kind, path):
    edit(path, WRONG[kind])
    refuse(path, "model.keras")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000, b"9" * 10_000], ids=range(5))
def test_configurations_that_cannot_be_read(content, path):
    rewrite(path, config=lambda _: content)
    refuse(path, "model.keras")


@pytest.mark.parametrize("part", ["config", "model"])
def test_missing_parts(part, path):
    rewrite(path, **{part: None})
    refuse(path, "it has no")


def change_weights(path, function):
    def change(content):
        weights = path.with_suffix(".h5")
        weights.write_bytes(content)
        with h5py.File(weights, "r+") as file:
            names = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            function(file, names[0])
        return weights.read_bytes()

    rewrite(path, model=change)


def drop(file, name):
    del file[name]


def reshape(file, name):
    del file[name]
    file[name] = np.zeros((3, 5, 7), "float32")


def empty(file, name):
    file.clear()


@pytest.mark.parametrize("change", [drop, reshape, empty])
def test_weights_that_do_not_fit(change, path):
    change_weights(path, change)
    refuse(path, "model.keras")


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x89HDF\r\n\x1a\n" + bytes(100)], ids=range(3))
def test_weights_that_cannot_be_read(content, path):
    rewrite(path, model=lambda old: content + bytes(len(old)))
    refuse(path, "model.keras")


@pytest.mark.parametrize("place", ["model", "backbone", "dtype"])
def test_code_in_a_file_does_not_run(place, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lambda_layer = keras.layers.Lambda(lambda x: os.mkdir("ran") or x)
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(lambda_layer)))

    def change(config):
        if place == "model":
            return serialized
        if place == "backbone":
            config["config"]["backbone"] = serialized
        else:
            config["config"]["backbone"]["config"]["dtype"] = serialized
        return config

    edit(path, change)
    with SafeModeScope(False):  # a program may have said so; here it must not matter
        refuse(path, "Lambda" if place != "dtype" else "model.keras")
    assert not (tmp_path / "ran").exists()
