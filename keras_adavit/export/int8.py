"""Quantises an ONNX graph to int8 through ONNX Runtime's own tools."""

import logging
import tempfile
from pathlib import Path

FLOAT32 = ("_gate", "/stem", "/head")  # in the names of products that are not rounded: they decide, or take few MACs


def quantize_to_int8(model):
    """An ONNX model with the products by constant weights of another in int8, those of branches included.

    Weights are rounded ahead, a scale a column; activations when it runs, a scale a product. Gates, stem, classifier,
    normalisations and attention itself stay in float32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kept = [node.name for node in products(model.graph) if any(part in node.name for part in FLOAT32)]
    logger = logging.getLogger()
    logger.addFilter(is_no_advice)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=kept,
                extra_options={"EnableSubgraph": True},
            )
            return onnx.load(path)
    finally:
        logger.removeFilter(is_no_advice)


def is_no_advice(record):
    """False for the advice to optimise the graph before, which ONNX Runtime does when it loads the file."""
    return "run pre-processing before quantization" not in record.getMessage()


def products(graph):
    """The matrix products of a graph and of its branches."""
    for node in graph.node:
        if node.op_type == "MatMul":
            yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from products(attribute.g)
