"""A model, photos of many sizes, files that are none, and one server for all tests."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from gated import make_model
from PIL import Image
from served import need_server, served

import keras_adavit as ka
from keras_adavit.evaluation.predict import predict, read_photos

SAMPLE = Path(__file__).parents[3] / "shared" / "imagenet_sample"
LONG_NAME = "a bee of a very long name that is longer than a narrow page is wide, and goes on"
NAMES = ("ant", LONG_NAME, "cat", "dog", "elk")
SIDES = (30, 64, 200, 333, 500, 800, 1500, 3000, 5000)  # of photos, the longer one
BUDGETS = (0.3, 0.5)


@pytest.fixture(scope="session")
def one_backend(one_backend):
    """As of all tests: a server does the same on each backend; only `KerasEngine` does not, see test_engines.py."""
    need_server()


@pytest.fixture(scope="session")
def model():
    keras.utils.set_random_seed(0)
    model = make_model()
    model.class_names = NAMES
    model.preprocessing = ka.Preprocessing()
    return model


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """The model, `good` photos of many sizes, and `bad` files."""
    folder = tmp_path_factory.mktemp("served")
    model.save(folder / "model.keras")
    (folder / "good").mkdir()
    (folder / "bad").mkdir()
    for index, photo in enumerate(photos(2 * len(SIDES))):
        side = SIDES[index % len(SIDES)]
        scale = side / max(photo.size)
        photo = photo.resize([max(1, round(length * scale)) for length in photo.size])
        photo = photo.convert("L") if index % 5 == 1 else photo
        photo.save(folder / "good" / (f"{index:02d}.png" if index % 4 == 3 and side < 1000 else f"{index:02d}.jpg"))
    whole = (folder / "good" / "04.jpg").read_bytes()
    bad = {"empty.jpg": b"", "text.jpg": b"no photo", "half.jpg": whole[: len(whole) // 2], "head.png": whole[:30]}
    for name, content in bad.items():
        (folder / "bad" / name).write_bytes(content)
    Image.new("1", (20_000, 20_000)).save(folder / "bad" / "bomb.png")
    return folder


def photos(count):
    """Real photos where they are there, and otherwise drawn ones: discs on a smooth background, with some noise."""
    files = sorted(SAMPLE.glob("*/*.JPEG"))[:count]
    if files:
        yield from (Image.open(file).convert("RGB") for file in files)
        return
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 300), np.linspace(-1, 1, 200))
    for seed in range(count):
        rng = np.random.default_rng(seed)
        (left, top), radius = rng.uniform(-0.6, 0.6, 2), rng.uniform(0.2, 0.8)
        disc = ((x - left) ** 2 + (y - top) ** 2 < radius**2)[..., None] * rng.uniform(-200, 200, 3)
        ground = 128 + x[..., None] * rng.uniform(-60, 60, 3) + y[..., None] * rng.uniform(-60, 60, 3)
        noise = rng.normal(0, 10, (*x.shape, 3))
        yield Image.fromarray((disc + ground + noise).clip(0, 255).astype("uint8"))


@pytest.fixture(scope="session")
def files(folder):
    """The good files and the bad ones, two lists of paths."""
    return [sorted((folder / name).iterdir()) for name in ("good", "bad")]


@pytest.fixture(scope="session")
def expected(model, files):
    """What `evaluate --images` says of each good photo, a dict."""
    good, _ = files
    return dict(zip(good, predict(model, read_photos(list(map(os.fspath, good)), model, 9)), strict=True))


@pytest.fixture(scope="session")
def onnx_file(one_backend, model, folder):
    """The model, exported with what photos need."""
    pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    ka.export(model, folder / "model.onnx", "onnx", preprocessing=True)
    return folder / "model.onnx"


@pytest.fixture(scope="session")
def address(one_backend, folder):
    """The address of a server with budgets."""
    given = (folder / "model.keras", "--macs", *BUDGETS, "--data", folder / "good")
    with served(*given) as (_, address):
        yield address
