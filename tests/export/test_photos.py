"""Exported files that take photos give what `evaluate --images` gives, in a process without this package."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gated import make_model
from PIL import Image

import keras_adavit as ka
from keras_adavit.commands.main import main
from keras_adavit.evaluation.predict import predict, read_photos

SAMPLE = Path(__file__).parents[3] / "shared" / "imagenet_sample"
NAMES = ("ant", "bee", "cât", "dog", "elk")
SIZES = (1, 3, 32)  # of batches

READER = """
import json
import sys
import numpy as np
from PIL import Image

kind, path, files, out = sys.argv[1:]
files = json.load(open(files))
results = {}
if kind == "onnx":
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])

    def run(batch):
        found = dict(zip(names, session.run(None, {"pixels": np.stack([pixels[file] for file in batch])})))
        order = np.argsort(-found["probabilities"], axis=1)
        return found | {"labels": order, "classes": np.array(class_names)[order]}

    pixels = {file: np.asarray(Image.open(file).convert("RGB")) for file in files}
    groups = {}
    for file in files:
        groups.setdefault(pixels[file].shape, []).append(file)
    groups = list(groups.values())
else:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)

    def run(batch):
        found = loaded.signatures["encoded"](encoded=tf.constant([open(file, "rb").read() for file in batch]))
        found = {name: value.numpy() for name, value in found.items()}
        return found | {"classes": np.array([[name.decode() for name in row] for row in found["classes"]])}

    groups = [files]
for size in (1, 3, 32):
    rows = {}
    for group in groups:
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            found = run(batch)
            rows |= {file: {name: values[at] for name, values in found.items()} for at, file in enumerate(batch)}
    for name in rows[files[0]]:
        results[f"{size}_{name}"] = np.stack([rows[file][name] for file in files])
np.savez(out, **results)
assert "keras_adavit" not in sys.modules
"""


def make_photo_model(**kwargs):
    model = make_model(**kwargs)
    model.class_names = NAMES
    grey = kwargs.get("channels") == 1
    model.preprocessing = ka.Preprocessing(0.9, (0.4,), (0.3,)) if grey else ka.Preprocessing()
    return model


@pytest.fixture(scope="module", params=["onnx", "saved_model"])
def exported(request, tmp_path_factory):
    """A model, and where its file for photos is."""
    if request.param == "onnx":
        pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    model, path = make_photo_model(depth=2), tmp_path_factory.mktemp("exported") / "model"
    ka.export(model, path, request.param, preprocessing=True)
    return model, path, request.param


def run_exported(path, kind, files, folder):
    """What a process without this package reads out of a file: a dict of arrays."""
    (folder / "files.json").write_text(json.dumps(list(map(str, files))))
    command = [sys.executable, "-c", READER, kind, str(path), str(folder / "files.json"), str(folder / "found.npz")]
    subprocess.run(command, check=True, timeout=600)
    return dict(np.load(folder / "found.npz"))


def evaluated(model, files):
    """What `evaluate --images` gives: its predictions, and the outputs behind them."""
    outputs = []
    batches = list(read_photos(list(map(str, files)), model))
    predictions = predict(model, batches, observe=lambda _, found: outputs.append(found))
    return predictions, {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}


def assert_same(found, predictions, expected, decoded_otherwise=0):
    """The same outputs, but for a few photos whose pixels a decoder gives a little differently."""
    for size in SIZES:
        for name in ("token_keep", "head_keep", "block_keep"):
            np.testing.assert_array_equal(found[f"{size}_{name}"], expected[name])
        np.testing.assert_allclose(found[f"{size}_macs"], expected["macs"], rtol=1e-6)
        difference = np.abs(found[f"{size}_logits"] - expected["logits"]).max(axis=1)
        assert (difference > 1e-3).sum() <= decoded_otherwise
        assert difference.max() < 0.03
        for row, each in enumerate(predictions):
            assert found[f"{size}_labels"][row].tolist() == list(each.labels)
            assert found[f"{size}_classes"][row].tolist() == list(each.classes)
            probabilities = found[f"{size}_probabilities"][row][list(each.labels)]
            np.testing.assert_allclose(probabilities, each.probabilities, atol=max(1e-3, difference[row]))


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="../shared/imagenet_sample is not there")
def test_photos(exported, tmp_path):
    """Evaluation decodes a JPEG in part, others all of it: the colours of a column at the crop's edge may differ."""
    model, path, kind = exported
    files = sorted(SAMPLE.glob("*/*.JPEG"))
    assert len(files) == 100
    found = run_exported(path, kind, files, tmp_path)
    assert_same(found, *evaluated(model, files), decoded_otherwise=7 if kind == "onnx" else 0)


@pytest.mark.slow
def test_images_of_any_kind(exported, tmp_path):
    model, path, kind = exported
    rng = np.random.default_rng(0)
    shapes = {"L": (90, 70), "RGB": (45, 61, 3), "RGBA": (64, 64, 4)}
    shapes |= {"tiny": (1, 1, 3), "flat": (3, 200, 3), "large": (2600, 3000, 3), "right": (37, 37, 3)}
    files = []
    for name, shape in shapes.items():
        smooth = rng.integers(0, 256, (*(-(-side // 50) for side in shape[:2]), *shape[2:])).astype("uint8")
        image = Image.fromarray(smooth).resize(shape[1::-1])
        files.append(tmp_path / f"{name}.png")
        image.save(files[-1])
    files.append(tmp_path / "palette.png")
    image.quantize(20).save(files[-1])
    assert_same(run_exported(path, kind, files, tmp_path), *evaluated(model, files))


@pytest.mark.slow
def test_onnx_of_a_grey_model(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
    pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    model = make_photo_model(depth=2, channels=1)
    ka.export(model, tmp_path / "model.onnx", "onnx", "masked", preprocessing=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    _, expected = evaluated(model, [tmp_path / "a.png"])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(["logits"], {"pixels": pixels[None]})
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)


def test_a_model_that_knows_no_preprocessing_is_refused(tmp_path, capsys):
    model = make_model()
    with pytest.raises(ka.InputError, match=r"must know the `preprocessing` of its images.* Received: "):
        ka.export(model, tmp_path / "model", preprocessing=True)
    with pytest.raises(ka.InputError, match=r"`preprocessing` must be True or False\. Received: preprocessing='yes'"):
        ka.export(model, tmp_path / "model", preprocessing="yes")
    model.save(tmp_path / "model.keras")
    assert main(["export", str(tmp_path / "model.keras"), str(tmp_path / "model"), "--preprocessing"]) == 2
    assert "must know the `preprocessing`" in capsys.readouterr().err
    model = make_model(channels=2)
    model.preprocessing = ka.Preprocessing(1.0, (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(ka.InputError, match=r"must take images of 1 or 3 channels\. Received: 2"):
        ka.export(model, tmp_path / "model", preprocessing=True)
    assert [each.name for each in tmp_path.iterdir()] == ["model.keras"]
