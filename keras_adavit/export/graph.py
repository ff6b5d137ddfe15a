"""Writes the graph of a model, on TensorFlow, and checks what was written."""

from keras_adavit.export.check import check_written
from keras_adavit.export.litert import write_litert
from keras_adavit.export.onnx_file import write_onnx
from keras_adavit.export.saved_model import write_saved_model


def write(model, path, format, execution, preprocessing=False, quantize=None):
    """Writes the graph; on TensorFlow. Arguments are those of `export`.

    Raises:
        RuntimeError: If what was written computes something else than the model.
    """
    if format == "onnx":
        write_onnx(model, path, execution, preprocessing, quantize)
    elif format == "litert":
        write_litert(model, path)
    else:
        write_saved_model(model, path, execution, preprocessing)
    check_written(model, path, format, preprocessing, quantize)
