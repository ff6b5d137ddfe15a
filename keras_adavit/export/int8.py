"""Quantises an ONNX graph to int8 through ONNX Runtime's own tools."""

import logging
import re
import tempfile
from graphlib import TopologicalSorter
from pathlib import Path

# In the names of products that are not rounded: they decide, or take few MACs, or, in the first block, what they round
# would turn decisions of all blocks.
FLOAT32 = re.compile(r"_gate|/stem|/head|/block_0(_\d+)?/")


def quantize_to_int8(model):
    """An ONNX model with the products by constant weights of another in int8, those of branches included.

    Weights are rounded ahead, a scale a column; activations when it runs, a scale a product. Gates, stem, first block,
    classifier, normalisations and attention itself stay in float32; so do products by the weights of some heads, which
    are gathered when it runs.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kept = [node.name for node in products(model.graph) if FLOAT32.search(node.name)]
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
            quantised = onnx.load(path)
    finally:
        logger.removeFilter(is_no_advice)
    for graph in graphs(quantised.graph):
        sort_nodes(graph)
    return quantised


def is_no_advice(record):
    """False for the advice to optimise the graph before, which ONNX Runtime does when it loads the file."""
    return "run pre-processing before quantization" not in record.getMessage()


def products(graph):
    """The matrix products of a graph and of its branches."""
    return [node for part in graphs(graph) for node in part.node if node.op_type == "MatMul"]


def graphs(graph):
    """A graph and those of its branches, recursively."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def sort_nodes(graph):
    """Puts every node after those whose outputs it reads, in its branches too, which ONNX Runtime's tools overlook."""
    nodes = list(graph.node)
    producers = {output: index for index, node in enumerate(nodes) for output in node.output}
    needed = {index: {producers[name] for name in read_by(node) & producers.keys()} for index, node in enumerate(nodes)}
    order = list(TopologicalSorter(needed).static_order())
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def read_by(node):
    """The set of names that a node reads, or its branches."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names.update(name for part in graphs(attribute.g) for inner in part.node for name in inner.input)
    return names
