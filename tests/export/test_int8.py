"""ONNX in int8: what is packed is rounded too, what decides is not."""

import keras
import numpy as np
import pytest
from gated import make_model
from keras import ops

import keras_adavit as ka
from keras_adavit.gating.policy import POLICY_KEYS


@pytest.fixture(scope="module", params=["packed", "masked"])
def exported(request, tmp_path_factory):
    """A model, and its file in int8, which takes photos."""
    pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the graph is TensorFlow's on every backend: on TensorFlow alone")
    keras.utils.set_random_seed(0)
    model, path = make_model(), tmp_path_factory.mktemp("int8") / "model.onnx"
    model.preprocessing = ka.Preprocessing(crop_fraction=1.0)
    ka.export(model, path, "onnx", request.param, preprocessing=True, quantize="int8")
    return model, path


@pytest.mark.slow
def test_products_by_weights_are_integers_but_for_those_that_decide(exported):
    import onnx

    model, path = exported
    loaded = onnx.load(path)
    domains = [opset.domain for opset in loaded.opset_import]
    assert len(domains) == len(set(domains))
    nodes = list(all_nodes(loaded.graph))
    integers = [node.name for node in nodes if node.op_type == "MatMulInteger"]
    # qkv, projection and the MLP's two of each block but the first, those in branches included
    assert len(integers) == 4 * (model.backbone.depth - 1)
    floats = [node.name for node in nodes if node.op_type == "MatMul"]
    gates = [name for name in floats if "_gate" in name]
    assert len(gates) == 3 + 2 + 2  # tokens in every block, heads and sub-layers from the second on
    assert any("/stem" in name for name in floats)
    assert any("/head" in name for name in floats)


@pytest.mark.slow
def test_outputs_are_near(exported):
    import onnxruntime

    model, path = exported
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3)).astype("uint8")
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"pixels": pixels}), strict=True))
    preprocessing = model.preprocessing
    images = (pixels / 255 - preprocessing.mean) / preprocessing.std
    expected = {key: ops.convert_to_numpy(value) for key, value in model(images.astype("float32")).items()}
    same = np.all([(expected[key] == found[key]).reshape(64, -1).all(1) for key in POLICY_KEYS], axis=0)
    assert same.mean() > 0.8
    difference = np.linalg.norm((found["logits"] - expected["logits"])[same])
    assert 0 < difference < 0.05 * np.linalg.norm(expected["logits"][same])


def all_nodes(graph):
    """The nodes of a graph and of its branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "`quantize` must be 'int8'.*Received: quantize='int4'"),
        ({"quantize": True}, "`quantize` must be 'int8'.*Received: quantize=True"),
        ({"quantize": "int8", "format": "saved_model"}, '`quantize` needs `format="onnx"`. Received: format=\'saved_'),
    ],
)
def test_bad_input(options, message, tmp_path):
    pytest.importorskip("tf2onnx", reason="ONNX needs the extra `export`")
    with pytest.raises(ka.InputError, match=message):
        ka.export(make_model(), tmp_path / "model", **{"format": "onnx", **options})
    assert list(tmp_path.iterdir()) == []
