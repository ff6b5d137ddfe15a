"""A damaged file is refused in one sentence, or gives the very same as the sound one."""

import collections
import io
import shutil

import numpy as np
import pytest
from damage import damaged
from PIL import Image
from published import micro_model, safetensors_model

import keras_adavit as ka
from keras_adavit.data.image_folder import ImageFolder
from keras_adavit.models.saved import load_model
from keras_adavit.weights.load import NO_CHECKSUMS


@pytest.fixture
def cases(exhaustive):
    """Damaged versions of each file."""
    return 1000 if exhaustive else 20


def outcomes(path, data, count, read):
    """Reads damaged versions of a file; returns how often it was refused, and what was read of the others."""
    refused, results = collections.Counter(), {}
    for what, version in damaged(data, count):
        path.write_bytes(version)
        message = None
        try:
            results[what] = read(path)
        except ka.InputError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"{what} gives {type(error).__name__}: {error}") from error
        if message is not None:
            assert str(path) in message, what
            assert "\n" not in message, what
            refused[what.split()[0]] += 1
    print(f"{path.name}: refused {dict(refused)}, read {len(results)}")
    return sum(refused.values()), results


def assert_same(results, expected):
    for what, weights in results.items():
        for found, wanted in zip(weights, expected, strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=what)


def test_published_checkpoint(fixtures, tmp_path, cases):
    pytest.importorskip("torch")
    data = (fixtures / "deit_micro_dense.pth").read_bytes()
    model = micro_model("deit_micro_dense")

    def read(path):
        ka.load_torch_checkpoint(model, path)
        return model.get_weights()

    expected = read(fixtures / "deit_micro_dense.pth")
    refused, results = outcomes(tmp_path / "damaged.pth", data, cases, read)
    assert refused > cases / 2
    assert_same(results, expected)


def test_checkpoint_without_checksums(fixtures, tmp_path, cases):
    """What torch wrote before 1.6: damage in the numbers cannot be seen, and the report says so."""
    torch = pytest.importorskip("torch")
    content = torch.load(fixtures / "deit_micro_dense.pth", weights_only=True)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model = micro_model("deit_micro_dense")

    def read(path):
        return ka.load_torch_checkpoint(model, path).notes

    assert read(tmp_path / "old.pth") == [NO_CHECKSUMS]
    refused, results = outcomes(tmp_path / "damaged.pth", (tmp_path / "old.pth").read_bytes(), cases, read)
    assert refused > cases / 4
    assert all(notes == [NO_CHECKSUMS] for notes in results.values())
    assert not any(what.startswith(("cut", "empty")) for what in results)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_safetensors_file(fixtures, tmp_path, cases):
    """Of a format without checksums too."""
    data = (fixtures / "timm_vit_micro.safetensors").read_bytes()
    model = safetensors_model("timm")

    def read(path):
        return ka.load_torch_checkpoint(model, path).notes

    refused, results = outcomes(tmp_path / "damaged.safetensors", data, cases, read)
    assert refused > cases / 4
    assert all(notes == [NO_CHECKSUMS] for notes in results.values())
    assert not any(what.startswith(("cut", "empty")) for what in results)
    assert all(np.isfinite(weights).all() for weights in model.get_weights())


def test_keras_file(tmp_path, cases):
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=2, num_heads=2, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, num_classes=3)
    model.save(tmp_path / "sound.keras")
    refused, results = outcomes(
        tmp_path / "damaged.keras",
        (tmp_path / "sound.keras").read_bytes(),
        cases,
        lambda path: load_model(path).get_weights(),
    )
    assert refused > cases / 2
    assert_same(results, model.get_weights())


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_image_files(kind, tmp_path, cases):
    """A PNG has checksums; what a JPEG shows after a flipped bit, nobody can tell from what it should."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype("uint8")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "0.png").write_bytes(stream.getvalue())
    source = ImageFolder(str(tmp_path), image_size=24, crop_fraction=1.0)

    def read(path):
        return [np.asarray(images) for images, labels in source.load(1, 0).validation]

    path = tmp_path / "val" / "a" / "0.png"
    expected = read(path)
    refused, results = outcomes(path, stream.getvalue(), cases, read)
    assert refused > cases / 4
    for what, found in results.items():
        assert [images.shape for images in found] == [images.shape for images in expected], what
    if kind == "PNG":
        assert_same(results, expected)


def test_model_that_is_a_checkpoint(fixtures, tmp_path):
    path = shutil.copy(fixtures / "deit_micro_dense.pth", tmp_path / "model.keras")
    with pytest.raises(ka.InputError, match=r"^The model must be .* Received: .*model\.keras"):
        load_model(path)


def test_checkpoint_that_is_a_model(tmp_path):
    pytest.importorskip("torch")
    model = micro_model("deit_micro_dense")
    model.save(tmp_path / "model.keras")
    path = (tmp_path / "model.keras").rename(tmp_path / "checkpoint.pth")
    with pytest.raises(ka.InputError, match=r"^The checkpoint must be .* Received: .*checkpoint\.pth"):
        ka.load_torch_checkpoint(model, path)
