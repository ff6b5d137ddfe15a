"""Writes a model as SavedModel or ONNX, with a free batch size; packed if asked, so that the saving travels along."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_adavit.errors import InputError
from keras_adavit.export.wrapper import ExportedModel
from keras_adavit.models.classifier import AdaViTClassifier, check_execution

FORMATS = ("saved_model", "onnx")
OPSET = 18  # of ONNX; the newest that tf2onnx writes


def export(model, path, format="saved_model", execution="packed"):
    """Writes a model for another runtime, which needs neither this package nor Keras.

    The exported function takes `images`, float32 (B, S, S, C) with any B, and returns what the model returns: `logits`,
    `token_keep`, `head_keep`, `block_keep`, `macs`. The graph is TensorFlow's: on JAX and torch a process on TensorFlow
    writes it from the same weights.

    Args:
        model: An `AdaViTClassifier`.
        path: Where to write: a new folder for a SavedModel, a new file for ONNX.
        format: `"saved_model"`, read by TensorFlow, or `"onnx"`, read by ONNX Runtime; ONNX needs the extra `export`.
        execution: `"packed"`: computes only what is kept; `"masked"`: everything.

    Raises:
        InputError: If an argument is something else, `path` exists or its folder does not, or the extra is missing.
    """
    if not isinstance(model, AdaViTClassifier):
        raise InputError(f"`model` must be an `AdaViTClassifier`. Received: model={model!r}")
    check_target(path, format, execution)
    if format == "onnx" and model.compute_dtype != "float32":
        raise InputError(f"`model` must compute in float32 for ONNX. Received: {model.dtype_policy.name}")
    with tempfile.TemporaryDirectory(dir=Path(path).absolute().parent, prefix=".export-") as folder:
        written = Path(folder) / "model"  # renamed when it is whole
        if keras.backend.backend() == "tensorflow":
            write(model, written, format, execution)
        else:
            model.save(Path(folder) / "model.keras")
            write_in_other_process(Path(folder) / "model.keras", written, format, execution)
        shutil.move(written, path)


def check_target(path, format, execution):
    """Raises `InputError` unless a model can be written there, so."""
    if format not in FORMATS:
        raise InputError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    check_execution(execution)
    if Path(path).exists():
        raise InputError(f"`path` must be new. Received: path={str(path)!r}, which exists")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"`path` must be in an existing folder. Received: path={str(path)!r}")
    if format == "onnx" and importlib.util.find_spec("tf2onnx") is None:
        raise InputError('`format="onnx"` needs tf2onnx: pip install "keras-adavit[export]". Received: no tf2onnx')


def write(model, path, format, execution):
    """Writes the graph; on TensorFlow."""
    signature = [keras.InputSpec(shape=(None, *model.backbone.image_shape), dtype="float32", name="images")]
    exported = ExportedModel(model, execution, unroll=format == "onnx")
    if format == "saved_model":
        exported.export(str(path), format="tf_saved_model", input_signature=signature, verbose=False)
    else:
        write_onnx(exported, path, signature)


def write_onnx(model, path, signature):
    """Writes ONNX; Keras and tf2onnx do, and what ONNX Runtime would not recognise is rewritten."""
    import onnx

    with warnings.catch_warnings():
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


def write_in_other_process(model_path, path, format, execution):
    """The same in a process on TensorFlow."""
    command = [sys.executable, "-m", "keras_adavit.export", str(model_path), str(path)]
    command += ["--format", format, "--execution", execution]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"The export on TensorFlow failed:\n{ran.stderr[-2000:]}")
