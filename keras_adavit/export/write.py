"""Writes a model as SavedModel or ONNX, with a free batch size; packed if asked, so that the saving travels along."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_adavit.errors import InputError
from keras_adavit.files import check_writable, write_whole
from keras_adavit.inference.execution import check_execution
from keras_adavit.inference.in_turn import written_out
from keras_adavit.models.classifier import AdaViTClassifier

FORMATS = ("saved_model", "onnx")
OPSET = 18  # of ONNX; the newest that tf2onnx writes
SAVED_MODEL_PARTS = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def export(model, path, format="saved_model", execution="packed", overwrite=False):
    """Writes a model for another runtime, which needs neither this package nor Keras.

    The exported function takes `images`, float32 (B, S, S, C) with any B, and returns what the model returns: `logits`,
    `token_keep`, `head_keep`, `block_keep`, `macs`. The graph is TensorFlow's: on JAX and torch a process on TensorFlow
    writes it from the same weights. What is written comes to `path` when it is whole, or not at all.

    Args:
        model: An `AdaViTClassifier`.
        path: Where to write: a new folder for a SavedModel, a new file for ONNX.
        format: `"saved_model"`, read by TensorFlow, or `"onnx"`, read by ONNX Runtime; ONNX needs the extra `export`.
        execution: `"packed"`: computes only what is kept; `"masked"`: everything.
        overwrite: Whether to replace an earlier export of the same format; nothing else is ever replaced.

    Raises:
        InputError: If an argument is something else, `path` exists or its folder does not, the extra is missing, or the
            disk is full.
    """
    if not isinstance(model, AdaViTClassifier):
        raise InputError(f"`model` must be an `AdaViTClassifier`. Received: model={model!r}")
    check_target(path, format, execution, overwrite)
    if format == "onnx" and model.compute_dtype != "float32":
        raise InputError(f"`model` must compute in float32 for ONNX. Received: {model.dtype_policy.name}")
    with write_whole(path) as unfinished:
        if keras.backend.backend() == "tensorflow":
            write(model, unfinished, format, execution)
        else:
            write_in_other_process(model, unfinished, format, execution, path)
        check_target(path, format, execution, overwrite)  # again: something may have come there in the meantime


def check_target(path, format, execution, overwrite=False):
    """Raises `InputError` unless a model can be written there, so."""
    if format not in FORMATS:
        raise InputError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    check_execution(execution)
    if format == "onnx" and importlib.util.find_spec("tf2onnx") is None:
        raise InputError('`format="onnx"` needs tf2onnx: pip install "keras-adavit[export]". Received: no tf2onnx')
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"`path` must be in an existing folder. Received: path={str(path)!r}")
    if os.path.lexists(path):
        earlier = is_saved_model(Path(path)) if format == "saved_model" else is_onnx(Path(path))
        if overwrite and not earlier:
            raise InputError(
                f"`path` must be new or an earlier export as {format}. Received: path={str(path)!r}, which is neither"
            )
        if not overwrite:
            hint = "; `overwrite=True` replaces it" if earlier else ""
            raise InputError(f"`path` must be new. Received: path={str(path)!r}, which exists{hint}")
    check_writable(path)


def is_saved_model(path):
    """Whether a folder holds a SavedModel and nothing else, which would be lost with it."""
    return (path / "saved_model.pb").is_file() and {child.name for child in path.iterdir()} <= SAVED_MODEL_PARTS


def is_onnx(path):
    """Whether a file holds an ONNX model."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        return False
    try:
        return onnx.load(path, load_external_data=False).HasField("graph")
    except DecodeError:
        return False


def write(model, path, format, execution):
    """Writes the graph; on TensorFlow."""
    signature = [keras.InputSpec(shape=(None, *model.backbone.image_shape), dtype="float32", name="images")]
    before = model.execution, model.jit_compile
    # What runs the graph later is not the XLA that the model was compiled for here, under which it could not pack.
    model.execution, model.jit_compile = execution, False
    try:
        if format == "saved_model":
            with files_as_os_error(path):
                model.export(str(path), format="tf_saved_model", input_signature=signature, verbose=False)
        else:
            write_onnx(model, path, signature)
    finally:
        model.execution, model.jit_compile = before


@contextlib.contextmanager
def files_as_os_error(path):
    """Raises what TensorFlow raises about files, such as a full disk, as the `OSError` that it stands for."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if str(path) not in error.message:
            raise
        raise OSError(error.message.rpartition("; ")[2].partition(" [Op:")[0]) from error


def write_onnx(model, path, signature):
    """Writes ONNX; Keras and tf2onnx do, and what ONNX Runtime would not recognise is rewritten."""
    import onnx

    with written_out(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx looks for what NumPy 2 has no more
        model.export(str(path), format="onnx", input_signature=signature, opset_version=OPSET, verbose=False)
    converted = onnx.load(path)
    for graph in graphs(converted.graph):
        divide_before_erf(graph)
    onnx.save(converted, path)


def graphs(graph):
    """A graph and those of its branches, recursively."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def divide_before_erf(graph):
    """Writes erf(x·c) as erf(x/√2), the form in which ONNX Runtime recognises a GELU; the converter made a product."""
    from onnx import helper, numpy_helper

    producers = {output: node for node in graph.node for output in node.output}
    for erf in [node for node in graph.node if node.op_type == "Erf"]:
        product = producers.get(erf.input[0])
        if product is not None and product.op_type == "Mul":
            root = f"{product.output[0]}_root"
            values = [name for name in product.input if name in producers]  # the other one is a constant
            graph.initializer.append(numpy_helper.from_array(np.array(2**0.5, "float32"), root))
            product.CopyFrom(helper.make_node("Div", [*values, root], list(product.output), product.name))
    used = {name for part in graphs(graph) for node in part.node for name in node.input}
    for unused in [constant for constant in graph.initializer if constant.name not in used]:
        graph.initializer.remove(unused)


def write_in_other_process(model, unfinished, format, execution, path):
    """The same in a process on TensorFlow; `path` is where errors say that it was to go."""
    with tempfile.TemporaryDirectory(dir=unfinished.parent) as folder:
        weights = Path(folder) / "model.keras"
        model.save(weights)
        command = [sys.executable, "-m", "keras_adavit.export", str(weights), str(unfinished)]
        command += ["--format", format, "--execution", execution]
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            try:
                _, errors = process.communicate()
            except BaseException:  # such as an interrupt: it must not go on writing
                process.kill()
                process.wait()
                raise
    if process.returncode == 2 and "error: " in errors:
        sentence = errors.rpartition("error: ")[2].strip()
        raise InputError(sentence.replace(str(unfinished), str(path)))
    if process.returncode:
        raise RuntimeError(f"The export on TensorFlow failed:\n{errors[-2000:]}")
