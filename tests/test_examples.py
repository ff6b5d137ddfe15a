"""The examples in the docstrings of the public names, and in the README, run."""

import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_adavit as ka

README = Path(__file__).parents[1] / "README.md"


def python_blocks(text):
    return ["\n".join(block.splitlines()) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def dedent(docstring):
    return "\n".join(line.removeprefix("    ") for line in docstring.splitlines())


@pytest.fixture
def names(fixtures, tmp_path, monkeypatch):
    """What the examples take for granted: a small model of ten classes, a dense one of its sizes, images and a file."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(fixtures / "ada_deit_micro.pth", tmp_path / "published.pth")
    sizes = {"image_size": 64, "patch_size": 16, "width": 96, "depth": 4, "num_heads": 3, "positions": "sinusoid"}
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**sizes, gates=ka.GateConfig()), 10)
    for block in model.backbone.blocks:  # gates that differ between images, so that they can be calibrated
        block.token_gate.kernel.assign(np.random.default_rng(0).normal(size=block.token_gate.kernel.shape))
    return {
        "ka": ka,
        "keras": keras,
        "model": model,
        "dense": ka.AdaViTClassifier(ka.AdaViTBackbone(**sizes), 10),
        "images": np.random.default_rng(0).normal(size=(8, 64, 64, 3)).astype("float32"),
        "labels": np.arange(8) % 10,
    }


@pytest.mark.parametrize("name", ka.__all__)
def test_docstrings(name, names):
    if name == "load_torch_checkpoint":
        pytest.importorskip("torch", reason="reading PyTorch files needs torch")
    if name == "export":
        pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    blocks = python_blocks(dedent(getattr(ka, name).__doc__))
    assert blocks, f"{name} has no example"
    for block in blocks:
        exec(block, names)


@pytest.mark.slow
def test_readme(names, fixtures):
    first, *_ = python_blocks(README.read_text())
    exec(first, names)
    assert names["outputs"]["token_keep"].shape[0] == 8
