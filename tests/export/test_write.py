"""Exported models, run by their own runtimes in a process that never imports this package."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_adavit as ka
from keras_adavit.export.__main__ import main

READER = """
import sys
import numpy as np

kind, path, images, out = sys.argv[1:]
images = np.load(images)
found = {}
if kind == "onnx":
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    run = lambda batch: dict(zip(names, session.run(None, {"images": batch})))
else:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    run = lambda batch: {key: value.numpy() for key, value in serve(tf.constant(batch)).items()}
for size in (1, 5, len(images)):
    found.update({f"{size}_{key}": value for key, value in run(images[:size]).items()})
np.savez(out, **found)
assert "keras_adavit" not in sys.modules
"""


def make_model():
    backbone = ka.AdaViTBackbone(32, 8, 24, 3, 3, 2.0, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, 5)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape, scale=0.3))
    for block in backbone.blocks:
        block.token_gate.kernel.assign(rng.normal(size=block.token_gate.kernel.shape, scale=2.0))
        block.token_gate.bias.assign([0.5])
    return model


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["packed", "masked"])
@pytest.mark.parametrize("format", ["saved_model", "onnx"])
def test_other_runtimes_compute_the_same(format, execution, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
        pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    model = make_model()
    images = np.random.default_rng(0).normal(size=(19, 32, 32, 3)).astype("float32")
    expected = model.predict(images, batch_size=19, verbose=0)
    assert 0.2 < expected["token_keep"].mean() < 0.95
    ka.export(model, tmp_path / "model", format, execution)
    assert model.execution == "masked"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "reader.py").write_text(READER)
    command = [sys.executable, "reader.py", format, "model", "images.npy", "found.npz"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    with np.load(tmp_path / "found.npz") as found:
        for size in (1, 5, 19):
            for key, value in expected.items():
                tolerance = 1e-4 if key == "logits" else 1e-6
                np.testing.assert_allclose(found[f"{size}_{key}"], value[:size], rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on TensorFlow alone XLA keeps from packing")
def test_a_model_compiled_for_xla_is_exported_packed(tmp_path):
    model = make_model()
    model.compile(jit_compile=True)
    for execution in ("packed", "masked"):
        ka.export(model, tmp_path / execution, execution=execution)  # a warning that it cannot pack would be an error
    assert model.jit_compile
    # Rows are numbered where they are packed, and only there.
    assert b"Cumsum" in (tmp_path / "packed" / "saved_model.pb").read_bytes()
    assert b"Cumsum" not in (tmp_path / "masked" / "saved_model.pb").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, "`format` must be one of"),
        ({"execution": "sparse"}, "`execution` must be 'masked' or 'packed'"),
        ({"path": "there"}, "`path` must be new. Received: path='.*there', which exists"),
        ({"path": "missing/model"}, "`path` must be in an existing folder"),
        ({"model": "a model"}, "`model` must be an `AdaViTClassifier`"),
    ],
)
def test_bad_input(arguments, message, tmp_path):
    (tmp_path / "there").write_text("not to be lost")
    arguments = {"model": make_model(), "path": "new", **arguments}
    arguments["path"] = str(tmp_path / arguments["path"])
    with pytest.raises(ka.InputError, match=message):
        ka.export(**arguments)
    assert (tmp_path / "there").read_text() == "not to be lost"
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_onnx_is_float32():
    pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ka.InputError, match="`model` must compute in float32 for ONNX"):
        ka.export(model, "new.onnx", "onnx")


def test_command(tmp_path, capsys):
    model_path = tmp_path / "model.keras"
    make_model().save(model_path)
    assert main([str(tmp_path / "none.keras"), str(tmp_path / "out")]) == 2
    assert "The model must be a .keras file" in capsys.readouterr().err
    assert main([str(model_path), str(model_path)]) == 2
    assert "`path` must be new" in capsys.readouterr().err
    if keras.backend.backend() == "tensorflow":
        assert main([str(model_path), str(tmp_path / "out"), "--execution", "masked"]) == 0
        assert (tmp_path / "out" / "saved_model.pb").is_file()
