"""Exported models, run by their own runtimes in a process that never imports this package."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_adavit as ka
from keras_adavit.commands.main import main
from keras_adavit.export.write import check_target

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
elif kind == "openvino":
    from openvino import Core

    compiled = Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    run = lambda batch: {output.any_name: array for output, array in compiled({"images": batch}).items()}
elif kind == "litert":
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(path).get_signature_runner()
    run = lambda batch: runner(images=batch)
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


def need_litert():
    pytest.importorskip("ai_edge_litert", reason="LiteRT needs the extra `litert`")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "execution", "runtime"),
    [
        ("saved_model", "packed", "saved_model"),
        ("saved_model", "masked", "saved_model"),
        ("onnx", "packed", "onnx"),
        ("onnx", "masked", "onnx"),
        ("onnx", "packed", "openvino"),
        ("litert", None, "litert"),
    ],
)
def test_other_runtimes_compute_the_same(format, execution, runtime, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
        pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not in an extra of users")
    if format == "litert":
        need_litert()
    model = make_model()
    images = np.random.default_rng(0).normal(size=(19, 32, 32, 3)).astype("float32")
    expected = model.predict(images, batch_size=19, verbose=0)
    assert 0.2 < expected["token_keep"].mean() < 0.95
    name = "model.onnx" if format == "onnx" else "model"  # OpenVINO goes by the ending
    ka.export(model, tmp_path / name, format, execution)
    assert model.execution == "masked"
    assert [each.name for each in tmp_path.iterdir()] == [name]
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "reader.py").write_text(READER)
    command = [sys.executable, "reader.py", runtime, name, "images.npy", "found.npz"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    with np.load(tmp_path / "found.npz") as found:
        for size in (1, 5, 19):
            for key, value in expected.items():
                tolerance = 1e-4 if key == "logits" else 1e-6
                np.testing.assert_allclose(found[f"{size}_{key}"], value[:size], rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA packs otherwise on TensorFlow alone")
def test_a_model_compiled_for_xla_is_exported_packed(tmp_path):
    model = make_model()
    model.compile(jit_compile=True)
    for execution in ("packed", "masked"):
        ka.export(model, tmp_path / execution, execution=execution)  # not with the static sizes of XLA
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
        (
            {"path": "there", "overwrite": True},
            "`path` must be new or an earlier export as saved_model. Received: path='",
        ),
        ({"path": "missing/model"}, "`path` must be in an existing folder"),
        ({"path": "there/model"}, "`path` must be in an existing folder"),
        ({"path": "x" * 300}, "x cannot be written. Received: File name too long"),
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
    with pytest.raises(ka.InputError, match="`model` must compute in float32 with `format='onnx'`"):
        ka.export(model, "new.onnx", "onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"execution": "packed"}, "`execution` must be 'masked' as LiteRT. Received: execution='packed'"),
        ({"preprocessing": True}, "`preprocessing` must be False as LiteRT. Received: preprocessing=True"),
        ({"quantize": "int8"}, "`quantize` needs `format=\"onnx\"`. Received: format='litert'"),
    ],
)
def test_what_litert_cannot(arguments, message, tmp_path):
    need_litert()
    model = make_model()
    model.preprocessing = ka.Preprocessing()
    with pytest.raises(ka.InputError, match=message):
        ka.export(model, tmp_path / "model.tflite", "litert", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_extra_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ka.InputError, match=r'needs ai_edge_litert: pip install "keras-adavit\[litert\]"'):
        check_target(tmp_path / "model.tflite", "litert", None)


def test_of_files_litert_alone_is_replaced(tmp_path):
    need_litert()
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3 and so on")
    assert check_target(path, "litert", None, overwrite=True) == "masked"
    path.write_bytes(b"TFL3, but not in its place")
    with pytest.raises(ka.InputError, match="`path` must be new or an earlier export as litert"):
        check_target(path, "litert", None, overwrite=True)


def test_command(tmp_path, capsys):
    model_path = tmp_path / "model.keras"
    make_model().save(model_path)
    assert main(["export", str(tmp_path / "none.keras"), str(tmp_path / "out")]) == 2
    assert "The model must be an existing file. Received: " in capsys.readouterr().err
    assert main(["export", str(model_path), str(model_path)]) == 2
    assert "`path` must be new" in capsys.readouterr().err
    if keras.backend.backend() == "tensorflow":
        assert main(["export", str(model_path), str(tmp_path / "out"), "--execution", "masked"]) == 0
        assert (tmp_path / "out" / "saved_model.pb").is_file()
        assert main(["export", str(model_path), str(tmp_path / "out"), "--execution", "masked"]) == 2
        assert "`overwrite=True` replaces it" in capsys.readouterr().err
        assert main(["export", str(model_path), str(tmp_path / "out"), "--execution", "masked", "--overwrite"]) == 0


def read_variables(path):
    """The variables of a SavedModel, as bytes, to tell one from another."""
    return (path / "variables" / "variables.data-00000-of-00001").read_bytes()


@pytest.mark.slow
def test_an_earlier_saved_model_is_replaced_when_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "model"
    ka.export(make_model(), path, execution="masked")
    first = read_variables(path)
    model = make_model()
    model.head.bias.assign(np.arange(5.0))
    with pytest.raises(ka.InputError, match="which exists; `overwrite=True` replaces it"):
        ka.export(model, path)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ka.InputError, match=r"model cannot be written\. Received: No space left on device"):
        ka.export(model, path, execution="masked", overwrite=True)
    assert read_variables(path) == first
    monkeypatch.undo()
    ka.export(model, path, execution="masked", overwrite=True)
    assert read_variables(path) != first
    (path / "notes.txt").write_text("would be lost")
    with pytest.raises(ka.InputError, match="`path` must be new or an earlier export as saved_model"):
        ka.export(model, path, overwrite=True)
    assert (path / "notes.txt").read_text() == "would be lost"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def fail(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("content", "may_be_replaced"),
    [(None, True), (b"", False), (b"\x08\x08 and then nothing", False), (b"PK\x03\x04", False)],
)
def test_of_files_onnx_alone_is_replaced(content, may_be_replaced, tmp_path):
    pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    from onnx import helper

    path = tmp_path / "model.onnx"
    if content is None:
        content = helper.make_model(helper.make_graph([], "empty", [], [])).SerializeToString()
    path.write_bytes(content)
    if may_be_replaced:
        check_target(path, "onnx", "packed", overwrite=True)
    else:
        with pytest.raises(ka.InputError, match="`path` must be new or an earlier export as onnx"):
            check_target(path, "onnx", "packed", overwrite=True)
    with pytest.raises(ka.InputError, match="`path` must be new or an earlier export as saved_model"):
        check_target(path, "saved_model", "packed", overwrite=True)
    with pytest.raises(ka.InputError, match="which exists"):
        check_target(path, "onnx", "packed")
    assert path.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("room", ["for nothing", "for the weights"])
def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing(room, tmp_path):
    model = make_model()
    path = tmp_path / "weights.keras"
    model.save(path)
    # With room for the weights, on JAX and torch it is the other process that fails, on the graph.
    size = 1000 if room == "for nothing" else path.stat().st_size + 1000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(ka.InputError) as raised:
            ka.export(model, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(raised.value) == f"{tmp_path / 'model'} cannot be written. Received: File too large"
    assert [each.name for each in tmp_path.iterdir()] == ["weights.keras"]


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow exports in the same process")
def test_an_interrupt_ends_the_other_process(tmp_path):
    def interrupt():
        while not children():
            time.sleep(0.01)
        found.extend(children())
        time.sleep(1)  # it imports TensorFlow
        os.kill(os.getpid(), signal.SIGINT)

    def children():
        own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return [child for child in own if "keras_adavit.export" in Path(f"/proc/{child}/cmdline").read_text()]

    found = []
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        ka.export(make_model(), tmp_path / "model")
    assert len(found) == 1
    assert not os.path.exists(f"/proc/{found[0]}")
    assert list(tmp_path.iterdir()) == []
