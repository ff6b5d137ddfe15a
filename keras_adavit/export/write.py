"""Writes a model as SavedModel or ONNX, with a free batch size; packed if asked, so that the saving travels along."""

import importlib.util
import os
from pathlib import Path

import keras

from keras_adavit.errors import InputError
from keras_adavit.export.graph import write
from keras_adavit.export.other_process import write_in_other_process
from keras_adavit.files import check_writable, write_whole
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.validation import check_execution

FORMATS = ("saved_model", "onnx")
SAVED_MODEL_PARTS = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def export(model, path, format="saved_model", execution="packed", overwrite=False):
    """Writes a model for another runtime, which needs neither this package nor Keras.

    The exported function takes `images`, float32 (B, S, S, C) with any B, and returns what the model returns: `logits`,
    `token_keep`, `head_keep`, `block_keep`, `macs`. The graph is TensorFlow's: on JAX and torch a process on TensorFlow
    writes it from the same weights. What is written comes to `path` when it is whole, or not at all.

    ```python
    ka.export(model, "exported", format="saved_model", execution="packed")
    ```

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
