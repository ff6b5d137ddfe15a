"""Writes the graph of a model, on TensorFlow: SavedModel as Keras writes it, ONNX through tf2onnx."""

import contextlib
import warnings

import keras
import numpy as np

from keras_adavit.export.wrapper import ExportedModel

OPSET = 18  # of ONNX; the newest that tf2onnx writes


def write(model, path, format, execution):
    """Writes the graph; on TensorFlow."""
    signature = [keras.InputSpec(shape=(None, *model.backbone.image_shape), dtype="float32", name="images")]
    exported = ExportedModel(model, execution, unroll=format == "onnx")
    if format == "saved_model":
        with files_as_os_error(path):
            exported.export(str(path), format="tf_saved_model", input_signature=signature, verbose=False)
    else:
        write_onnx(exported, path, signature)


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
