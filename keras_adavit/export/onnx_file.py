"""Writes ONNX: Keras and tf2onnx convert, and what ONNX Runtime would not recognise is rewritten."""

import json
import warnings

import keras
import numpy as np

from keras_adavit.export.int8 import graphs, quantize_to_int8
from keras_adavit.export.onnx_photos import prepend_preprocessing
from keras_adavit.export.wrapper import ExportedModel

OPSET = 18  # the newest that tf2onnx writes


def write_onnx(model, path, execution, preprocessing, quantize):
    """Writes the graph; arguments are those of `export`."""
    import onnx

    exported = ExportedModel(model, execution, unroll=True, probabilities=preprocessing)
    signature = [keras.InputSpec(shape=(None, *model.backbone.image_shape), dtype="float32", name="images")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx looks for what NumPy 2 has no more
        exported.export(str(path), format="onnx", input_signature=signature, opset_version=OPSET, verbose=False)
    converted = onnx.load(path)
    for graph in graphs(converted.graph):
        divide_before_erf(graph)
    if quantize == "int8":
        converted = quantize_to_int8(converted)
    if preprocessing:
        converted = prepend_preprocessing(converted, model.backbone.image_size, model.preprocessing)
    onnx.helper.set_model_props(converted, metadata(model))
    onnx.save(converted, path)


def metadata(model):
    """What the file says about the model, each as JSON: class names and preprocessing where they are known."""
    known = {
        "class_names": model.class_names,
        "preprocessing": model.preprocessing and model.preprocessing.get_config(),
        "dense_macs": model.dense_macs,
    }
    return {key: json.dumps(value) for key, value in known.items() if value is not None}


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
