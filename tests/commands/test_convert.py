import argparse
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save_file

import keras_adavit as ka
from keras_adavit.commands import main as commands
from keras_adavit.models import presets

torch = pytest.importorskip("torch")
SHAPES = {
    "ada_deit_small_patch16_224": "ada_step_deit_small_patch16_224",
    "ada_t2t_vit_19": "ada_step_t2t_vit_19_lnorm",
}


def main(arguments):
    return commands.main(["convert", *arguments])


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    """A preset of the size of the checkpoints in the fixtures, for images of 64 pixels."""
    monkeypatch.setitem(presets.PRESETS, "micro", presets.Preset(96, 4, 3, 4.0, "patch", 0, "", 0.0))


@pytest.mark.parametrize("name", ["ada_deit_micro", "deit_micro_dense"])
def test_gates_are_those_of_the_file(name, fixtures, tmp_path, capsys):
    checkpoint, output = str(fixtures / f"{name}.pth"), tmp_path / "model.keras"
    assert main([checkpoint, "--preset", "micro", "--num-classes", "10", "--image-size", "64", str(output)]) == 0
    assert "weights from" in capsys.readouterr().out
    model = keras.saving.load_model(output)
    assert (model.backbone.gates is None) == (name == "deit_micro_dense")
    golden = np.load(fixtures / f"{name}.npz")
    logits = ops.convert_to_numpy(model(golden["images_nchw"].transpose(0, 2, 3, 1))["logits"])
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-4, atol=1e-4)


def test_safetensors_file(fixtures, tmp_path, capsys):
    weights = torch.load(fixtures / "deit_micro_dense.pth", weights_only=True)["model"]
    save_file({name: value.numpy() for name, value in weights.items()}, tmp_path / "dense.safetensors")
    arguments = ["--preset", "micro", "--num-classes", "10", "--image-size", "64", str(tmp_path / "model.keras")]
    assert main([str(tmp_path / "dense.safetensors"), *arguments]) == 0
    assert "the file has no checksums" in capsys.readouterr().out
    golden = np.load(fixtures / "deit_micro_dense.npz")
    outputs = keras.saving.load_model(tmp_path / "model.keras")(golden["images_nchw"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(ops.convert_to_numpy(outputs["logits"]), golden["logits"], rtol=1e-4, atol=1e-4)


def test_normalised_policy_input_is_seen_in_the_names(fixtures, tmp_path, capsys):
    content = torch.load(fixtures / "ada_deit_micro.pth", weights_only=True)
    for index in (1, 2, 3):
        for parameter in ("weight", "bias"):
            content["state_dict_ema"][f"blocks.{index}.norm_policy.{parameter}"] = torch.rand(96)
    torch.save(content, tmp_path / "normalised.pth")
    output = tmp_path / "model.keras"
    arguments = [str(tmp_path / "normalised.pth"), "--preset", "micro", "--num-classes", "10", "--image-size", "64"]
    assert main([*arguments, str(output)]) == 0, capsys.readouterr().err
    gates = keras.saving.load_model(output).backbone.gates
    assert gates == ka.GateConfig(normalize_policy_input=True)


def test_names_are_printed_if_asked_for(fixtures, tmp_path, capsys):
    arguments = [str(fixtures / "deit_micro_dense.pth"), "--preset", "micro", "--image-size", "64", "--names"]
    assert main([*arguments, str(tmp_path / "model.keras")]) == 0
    out = capsys.readouterr().out
    assert "loaded   block_3/attention/qkv/kernel ← blocks.3.attn.qkv.weight\n" in out
    assert "ignored  head.bias: classifier: of 10 classes, the model's of 1000\n" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "none.pth"}, "The checkpoint must be an existing file. Received: none.pth"),
        ({"--preset": "ada_deit_smal"}, "`name` must be that of a preset, such as ada_deit_small_patch16_224"),
        ({"--image-size": "65"}, "`image_size` must be a multiple of `patch_size`"),
        ({"--num-classes": "0"}, "`num_classes` must be a whole number from 1"),
        ({"output": "model.h5"}, "The output must be a new .keras file in an existing folder. Received: model.h5"),
        ({"output": "none/model.keras"}, "The output must be a new .keras file in an existing folder"),
        ({"--preset": "ada_t2t_vit_7"}, "The checkpoint must fit the model, of which nothing was changed"),
    ],
    ids=str,
)
def test_wrong_input_is_one_line_and_exit_code_2(change, message, fixtures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"checkpoint": str(fixtures / "deit_micro_dense.pth"), "output": "model.keras", "--preset": "micro"}
    given |= {"--num-classes": "10", "--image-size": "64"} | change
    options = [part for name, value in given.items() if name.startswith("--") for part in (name, value)]
    assert main([given["checkpoint"], given["output"], *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_module_runs(tmp_path):
    command = [sys.executable, "-m", "keras_adavit", "convert", "none.pth", "--preset", "ada_t2t_vit_7", "a.keras"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "error: The checkpoint must be an existing file. Received: none.pth" in done.stderr
    assert "RuntimeWarning" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("preset", SHAPES)
def test_full_size_round_trip(preset, fixtures, tmp_path):
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in json.loads((fixtures / "state_dict_shapes.json").read_text())[SHAPES[preset]].items():
        scale = 1.0 if "_select" in name else 0.02
        mean = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        weights[f"module.{name}"] = torch.from_numpy(rng.normal(mean, scale, shape).astype("float32"))
    arguments = argparse.Namespace(model=preset, lr=0.0005)
    torch.save({"state_dict_ema": weights, "args": arguments, "epoch": 149}, tmp_path / "published.pth.tar")

    assert main([str(tmp_path / "published.pth.tar"), "--preset", preset, str(tmp_path / "model.keras")]) == 0
    converted = keras.saving.load_model(tmp_path / "model.keras")
    direct = ka.AdaViTClassifier.from_preset(preset)
    ka.load_torch_checkpoint(direct, tmp_path / "published.pth.tar")
    images = rng.normal(size=(2, 224, 224, 3)).astype("float32")
    found, expected = converted(images), direct(images)
    for name in ("logits", "token_keep", "head_keep", "block_keep", "macs"):
        np.testing.assert_array_equal(ops.convert_to_numpy(found[name]), ops.convert_to_numpy(expected[name]))
    assert 0 < ops.convert_to_numpy(found["token_keep"]).mean() < 1
    assert np.abs(ops.convert_to_numpy(found["logits"])).max() > 0
