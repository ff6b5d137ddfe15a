"""Writes a model as SavedModel, ONNX or LiteRT, with a free batch size; packed, so that the saving travels along."""

import importlib.util
import os
from pathlib import Path

import keras

from keras_adavit.errors import InputError
from keras_adavit.export.graph import write
from keras_adavit.export.litert import is_litert
from keras_adavit.export.other_process import write_in_other_process
from keras_adavit.files import check_writable, write_whole
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.validation import check_bool, check_choice, check_execution, check_takes_photos

FORMATS = ("saved_model", "onnx", "litert")
NEEDED = {"onnx": {"tf2onnx": "export", "onnxruntime": "export"}, "litert": {"ai_edge_litert": "litert"}}  # extras
SAVED_MODEL_PARTS = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def export(model, path, format="saved_model", execution=None, overwrite=False, preprocessing=False, quantize=None):
    """Writes a model for another runtime, which needs neither this package nor Keras.

    The exported function takes `images`, float32 (B, S, S, C) with any B, and returns what the model returns: `logits`,
    `token_keep`, `head_keep`, `block_keep`, `macs`. The graph is TensorFlow's: on JAX and torch a process on TensorFlow
    writes it from the same weights. What is written is run on a few images, and comes to `path` when it is whole and
    gives what the model gives, or not at all.

    ```python
    ka.export(model, "exported", format="saved_model", execution="packed")
    model.preprocessing = ka.Preprocessing()  # a model that `train` wrote knows it
    ka.export(model, "model.onnx", format="onnx", preprocessing=True)  # takes photos
    ```

    With `preprocessing`, photos are cropped, resized and normalised as evaluation does it, and `probabilities` (B, K)
    are returned too. A SavedModel then has two more signatures: `pixels` takes uint8 `pixels` (B, height, width, 3) of
    any size, `encoded` takes the bytes of JPEG or PNG files, strings `encoded` (B,). Both also return the most probable
    classes, at most five, the first one first: `labels`, int32, and their names `classes`, strings; numbers as text
    where the model knows no names. An ONNX file takes `pixels` in place of `images`; its metadata hold `class_names`,
    `preprocessing` and `dense_macs` as JSON.

    Args:
        model: An `AdaViTClassifier`.
        path: Where to write: a new folder for a SavedModel, a new file for ONNX and LiteRT.
        format: `"saved_model"`, read by TensorFlow, `"onnx"`, read by ONNX Runtime, or `"litert"`, read by LiteRT on
            telephones and small boards. ONNX needs the extra `export`, LiteRT the extra `litert`.
        execution: `"packed"`: computes only what is kept; `"masked"`: everything. By default packed, and masked as
            LiteRT, which cannot pack.
        overwrite: Whether to replace an earlier export of the same format; nothing else is ever replaced.
        preprocessing: Whether to take photos of any size, not as LiteRT; the model must know its `preprocessing`.
        quantize: `"int8"`, of ONNX: weights and the activations that they multiply are rounded to 8 bits, all but those
            of gates, stem, first block and classifier, which takes less time and memory. Close decisions may turn.

    Raises:
        InputError: If an argument is something else, `path` exists or its folder does not, the extra is missing, the
            model does not know how photos are prepared, or the disk is full.
        RuntimeError: If what was written computes something else than the model.
    """
    if not isinstance(model, AdaViTClassifier):
        raise InputError(f"`model` must be an `AdaViTClassifier`. Received: model={model!r}")
    execution = check_target(path, format, execution, overwrite)
    if check_bool("preprocessing", preprocessing):
        if format == "litert":
            raise InputError("`preprocessing` must be False as LiteRT. Received: preprocessing=True, format='litert'")
        check_takes_photos(model)
    if quantize is not None:
        check_choice("quantize", quantize, ("int8",))
        if format != "onnx":
            raise InputError(f'`quantize` needs `format="onnx"`. Received: format={format!r}')
    if format != "saved_model" and model.backbone.compute_dtype != "float32":
        raise InputError(
            f"`model` must compute in float32 with `format={format!r}`. Received: {model.backbone.dtype_policy.name}"
        )
    options = {"format": format, "execution": execution, "preprocessing": preprocessing, "quantize": quantize}
    with write_whole(path) as unfinished:
        if keras.backend.backend() == "tensorflow":
            write(model, unfinished, **options)
        else:
            write_in_other_process(model, unfinished, path, **options)
        check_target(path, format, execution, overwrite)  # again: something may have come there in the meantime


def check_target(path, format, execution, overwrite=False):
    """Raises `InputError` unless a model can be written there, so; returns the execution, which may be `None`."""
    if format not in FORMATS:
        raise InputError(f"`format` must be one of {FORMATS}. Received: format={format!r}")
    if execution is None:
        execution = "masked" if format == "litert" else "packed"
    check_execution(execution)
    if format == "litert" and execution == "packed":
        raise InputError("`execution` must be 'masked' as LiteRT. Received: execution='packed', format='litert'")
    for name, extra in NEEDED.get(format, {}).items():
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f'`format="{format}"` needs {name}: pip install "keras-adavit[{extra}]". Received: no {name}'
            )
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"`path` must be in an existing folder. Received: path={str(path)!r}")
    if os.path.lexists(path):
        earlier = {"saved_model": is_saved_model, "onnx": is_onnx, "litert": is_litert}[format](Path(path))
        if overwrite and not earlier:
            raise InputError(
                f"`path` must be new or an earlier export as {format}. Received: path={str(path)!r}, which is neither"
            )
        if not overwrite:
            hint = "; `overwrite=True` replaces it" if earlier else ""
            raise InputError(f"`path` must be new. Received: path={str(path)!r}, which exists{hint}")
    check_writable(path)
    return execution


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
