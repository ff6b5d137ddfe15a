"""What computes: a model of this library, packed, or an exported ONNX file through ONNX Runtime.

An engine knows `class_names`, `preprocessing`, `dense_macs`, `image_size` and `budgets`. `run(images, budget)` gives
the outputs for images (B, S, S, C), a dict of arrays; it is called from one thread.
"""

import json

import keras
import numpy as np
from keras import ops

from keras_adavit.data.preprocessing import Preprocessing
from keras_adavit.errors import InputError, printable
from keras_adavit.evaluation.calibration import calibrate
from keras_adavit.evaluation.thresholds import find_thresholds, gate_kinds
from keras_adavit.models.validation import check_takes_photos


class KerasEngine:
    """A model of this library.

    Args:
        model: An `AdaViTClassifier` that knows its `preprocessing`.

    Raises:
        InputError: If it does not.
    """

    def __init__(self, model):
        check_takes_photos(model)
        model.execution = "packed"
        self.model = model
        self.class_names = model.class_names
        self.preprocessing = model.preprocessing
        self.dense_macs = model.dense_macs
        self.image_size = model.backbone.image_size
        self.thresholds = find_thresholds(model, gate_kinds(model))  # none of a dense model
        self.budgets = {None: self.read_thresholds()}

    def add_budget(self, macs, images):
        """Finds the thresholds for a budget on images (N, S, S, C), see `ka.calibrate`; returns the share reached."""
        share = calibrate(self.model, images, macs)
        self.budgets[macs] = self.read_thresholds()
        self.use(None)
        return share

    def read_thresholds(self):
        return [float(ops.convert_to_numpy(threshold)) for threshold in self.thresholds]

    def use(self, budget):
        for threshold, value in zip(self.thresholds, self.budgets[budget], strict=True):
            threshold.assign(value)

    def run(self, images, budget=None):
        if len(self.budgets) > 1:
            self.use(budget)
        count = len(images)
        if keras.backend.backend() == "jax":  # which compiles anew for every size of a batch
            images = np.resize(images, (1 << (count - 1).bit_length(), *images.shape[1:]))
        return {key: values[:count] for key, values in self.model.predict_on_batch(images).items()}


class OnnxEngine:
    """An ONNX file that `ka.export` wrote; of one with preprocessing, what follows it.

    The server prepares each photo by itself, so that photos of several sizes are one batch.

    Args:
        path: The file.

    Raises:
        InputError: If the extra `export` is missing, or the file is another one.
    """

    def __init__(self, path):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise InputError(
                f'An ONNX file needs {error.name}: pip install "keras-adavit[export]". Received: no {error.name}'
            ) from error
        wanted = "The model must be an ONNX file that `ka.export(..., preprocessing=True)` wrote"
        try:
            model = onnx.load(path)
        except Exception as error:  # protobuf has several kinds
            raise InputError(f"{wanted}. Received: {printable(path)}, which is no ONNX file") from error
        known = {entry.key: json.loads(entry.value) for entry in model.metadata_props if entry.key in METADATA}
        if not {"preprocessing", "dense_macs"} <= known.keys():
            raise InputError(f"{wanted}. Received: {printable(path)}, which has no `preprocessing`")
        keep_from_images(model.graph)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.class_names = known.get("class_names")
        self.preprocessing = Preprocessing(**known["preprocessing"])
        self.dense_macs = known["dense_macs"]
        self.image_size = self.session.get_inputs()[0].shape[1]
        self.budgets = {None: None}

    def run(self, images, budget=None):
        return dict(zip(self.outputs, self.session.run(self.outputs, {"images": images}), strict=True))


METADATA = ("class_names", "preprocessing", "dense_macs")


def keep_from_images(graph):
    """Leaves out of an ONNX graph what comes before its tensor `images`, which becomes its input."""
    from onnx import helper

    (entry,) = graph.input
    if entry.name == "images":
        return
    last = next(index for index, node in enumerate(graph.node) if "images" in node.output)
    (images,) = (value for value in graph.value_info if value.name == "images")
    nodes = list(graph.node)[last + 1 :]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input[0].CopyFrom(helper.make_value_info("images", images.type))
