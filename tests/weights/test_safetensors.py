"""Files of timm and Hugging Face: those in the fixtures, which the libraries wrote, and new ones where they are."""

import sys

import keras
import numpy as np
import pytest
from keras import ops
from published import EPSILON, safetensors_model
from refusals import assert_untouched
from safetensors.numpy import load_file, save_file

import keras_adavit as ka
from keras_adavit.weights.hugging_face_names import published_name
from keras_adavit.weights.load import NO_CHECKSUMS
from keras_adavit.weights.safetensors_file import to_array
from keras_adavit.weights.transfer import weights_by_path

LIBRARIES = tuple(EPSILON)


@pytest.fixture(params=LIBRARIES)
def library(request):
    return request.param


@pytest.fixture
def content(library, fixtures):
    """The arrays of the library's file by name."""
    return load_file(fixtures / f"{library}_vit_micro.safetensors")


@pytest.fixture
def timm(fixtures):
    return load_file(fixtures / "timm_vit_micro.safetensors")


@pytest.fixture
def save(tmp_path):
    """Saves arrays and returns the path."""

    def save(arrays):
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, tmp_path / "a.safetensors")
        return tmp_path / "a.safetensors"

    return save


def logits(model, fixtures):
    images = np.load(fixtures / "safetensors_micro.npz")["images_nchw"].transpose(0, 2, 3, 1)
    return ops.convert_to_numpy(model(images)["logits"])


def assert_refused(path, *messages, model=None):
    """A file is refused in one sentence, and the model stays as it was."""
    model = model or safetensors_model("timm")
    with assert_untouched(model), pytest.raises(ka.InputError) as error:
        ka.load_torch_checkpoint(model, path)
    message = str(error.value)
    assert message.startswith("The checkpoint must ")
    assert message.isprintable()
    for part in ("Received: ", str(path), *messages):
        assert part in message


@pytest.mark.parametrize("torch_hidden", [False, True])
def test_logits_are_those_of_the_library(library, torch_hidden, fixtures, monkeypatch):
    if torch_hidden and keras.backend.backend() == "torch":
        pytest.skip("torch cannot be hidden where it is the backend")
    model = safetensors_model(library)
    with monkeypatch.context() as patch:
        if torch_hidden:
            patch.setitem(sys.modules, "torch", None)
        report = ka.load_torch_checkpoint(model, fixtures / f"{library}_vit_micro.safetensors")
    golden = np.load(fixtures / "safetensors_micro.npz")[library]
    np.testing.assert_allclose(logits(model, fixtures), golden, rtol=1e-4, atol=1e-4)
    assert report.notes == [NO_CHECKSUMS]


def test_report_has_the_names_of_the_file(library, content, fixtures):
    model = safetensors_model(library)
    report = ka.load_torch_checkpoint(model, fixtures / f"{library}_vit_micro.safetensors")
    assert sorted(name for names in report.loaded.values() for name in names) == sorted(content)
    assert report.loaded.keys() == weights_by_path(model).keys()
    assert (report.kept, report.ignored, report.new_classifier) == ({}, {}, False)


@pytest.mark.parametrize("gates", [None, ka.GateConfig()])
def test_another_image_size_number_of_classes_and_gates(library, gates, fixtures):
    model = safetensors_model(library, num_classes=3, image_size=32, gates=gates)
    report = ka.load_torch_checkpoint(model, fixtures / f"{library}_vit_micro.safetensors")
    assert "positions interpolated from 2×2 to 4×4" in report.notes
    assert report.new_classifier
    assert any("_gate/" in path for path in report.kept) == bool(gates)
    assert len(report.ignored) == 2


def test_hugging_face_backbone_alone(fixtures, save):
    """`ViTModel` has no prefix, and a layer behind the class token that its classifier does not have."""
    arrays = load_file(fixtures / "hugging_face_vit_micro.safetensors")
    arrays = {name.removeprefix("vit."): value for name, value in arrays.items() if not name.startswith("classifier")}
    arrays |= {"pooler.dense.weight": np.zeros((16, 16), "f4"), "pooler.dense.bias": np.zeros(16, "f4")}
    arrays |= {"embeddings.mask_token": np.zeros((1, 1, 16), "f4")}
    report = ka.load_torch_checkpoint(safetensors_model("hugging_face"), save(arrays))
    assert report.kept == dict.fromkeys(["head/kernel", "head/bias"], "classifier: the file has none")
    assert report.new_classifier
    assert sorted(report.ignored) == ["embeddings.mask_token", "pooler.dense.bias", "pooler.dense.weight"]


def test_hugging_face_names_of_deit_and_of_the_model_in_memory(fixtures, save):
    renamed = {
        "vit.encoder.layer": "deit.layers",
        "vit.": "deit.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    arrays = {}
    for name, value in load_file(fixtures / "hugging_face_vit_micro.safetensors").items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        arrays[name] = value
    model = safetensors_model("hugging_face")
    ka.load_torch_checkpoint(model, save(arrays))
    golden = np.load(fixtures / "safetensors_micro.npz")["hugging_face"]
    np.testing.assert_allclose(logits(model, fixtures), golden, rtol=1e-4, atol=1e-4)


def test_hugging_face_file_of_torch(fixtures, tmp_path):
    torch = pytest.importorskip("torch")
    arrays = load_file(fixtures / "hugging_face_vit_micro.safetensors")
    torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, tmp_path / "pytorch_model.bin")
    report = ka.load_torch_checkpoint(safetensors_model("hugging_face"), tmp_path / "pytorch_model.bin")
    assert (report.notes, report.ignored) == ([], {})


@pytest.mark.parametrize("name", ["cls_token", "blocks.0.attn.qkv.weight", "norm.bias", "vit.other.weight", "", "."])
def test_other_names_are_not_renamed(name):
    assert published_name(name) == name


OTHERS = {
    "dist_token": ((1, 1, 16), "of a distilled model"),
    "deit.embeddings.distillation_token": ((1, 1, 16), "of a distilled model"),
    "reg_token": ((1, 4, 16), "of a model with registers"),
    "embeddings.register_tokens": ((1, 4, 16), "of a model with registers"),
    "fc_norm.weight": ((16,), "of a model whose classifier reads the pooled patches"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_refused(name, timm, save):
    shape, message = OTHERS[name]
    assert_refused(save({**timm, name: np.zeros(shape, "f4")}), "one class token", message, f"({name})")


def test_file_of_something_else(save):
    arrays = {"model.layers.0.self_attn.q_proj.weight": np.zeros((4, 4), "f4"), "lm_head.weight": np.zeros(3, "f4")}
    assert_refused(save(arrays), "with other names, ", "lm_head.weight")


def test_other_sizes_are_told(fixtures):
    path = fixtures / "timm_vit_micro.safetensors"
    model = safetensors_model("timm", width=8, depth=3)
    assert_refused(path, "width 16, depth 2; the model: width 8, depth 3", "the preset, or the sizes", model=model)


def test_missing_names_are_listed(library, content, save):
    del content[next(name for name in content if name.endswith(".bias") and ".1." in name and "proj" not in name)]
    model = safetensors_model(library)
    assert_refused(save(content), "weights missing (1): blocks.1.", model=model)


def test_weight_under_two_names(timm, save):
    timm["vit.embeddings.cls_token"] = timm["cls_token"]
    assert_refused(save(timm), "must hold each weight once", "both cls_token and vit.embeddings.cls_token")


NAN, LARGE = np.full(16, np.nan, "f4"), np.full(16, 1e39, "f8")
UNFIT = {
    "NaN": (NAN, "NaN or infinite"),
    "too large": (LARGE, "NaN or infinite"),
    "integers": (np.ones(16, "i4"), "of I32"),
    "truth values": (np.ones(16, bool), "of BOOL"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_weights_that_are_no_finite_numbers(kind, timm, save):
    value, message = UNFIT[kind]
    assert_refused(save({**timm, "norm.bias": value}), "finite numbers", "with norm.bias, ", message)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_precisions(dtype, timm, save):
    model = safetensors_model("timm")
    ka.load_torch_checkpoint(model, save({name: value.astype(dtype) for name, value in timm.items()}))
    found = ops.convert_to_numpy(model.backbone.class_token)
    np.testing.assert_array_equal(found, timm["cls_token"].astype(dtype).astype("f4"))


def test_bfloat16():
    values = np.float32([1.5, -2.0, 0.0, 3.0e38])
    bits = (values.view("u4") >> 16).astype("<u2").tobytes()
    array, problem = to_array({"dtype": "BF16", "shape": [2, 2], "data": bits})
    assert (array.dtype.name, array.shape, problem) == ("float32", (2, 2), None)
    np.testing.assert_allclose(array.ravel(), values, rtol=0.01)


@pytest.mark.parametrize("shape", [[0] * 70, [0, 2**62, 2**62]])
def test_shapes_that_numpy_has_not(shape):
    assert to_array({"dtype": "F32", "shape": shape, "data": bytearray()}) == (None, "which is no array of numbers")


BROKEN = {
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte too many": lambda data: data + b"\0",
    "without an end of its header": lambda data: data[:20],
    "empty": lambda data: b"",
    "text": lambda data: b"no checkpoint\n" * 20,
    "a long header": lambda data: b"\xff" * 7 + b"\0" + data[8:],
    "a broken header": lambda data: data[:8] + b"{{" + data[10:],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(kind, fixtures, tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(BROKEN[kind]((fixtures / "timm_vit_micro.safetensors").read_bytes()))
    assert_refused(path, "a complete safetensors file", "truncated or damaged, or of another kind")


def test_file_without_weights(save):
    assert_refused(save({}), "which holds none")


def test_content_decides_where_the_suffix_says_nothing(timm, save, tmp_path):
    path = save(timm).rename(tmp_path / "weights.bin")
    assert not ka.load_torch_checkpoint(safetensors_model("timm"), path).new_classifier


def random_weights(torch, model):
    """Weights with which everything counts, of a torch model."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def compare(model, path, images, expected):
    ka.load_torch_checkpoint(model, path)
    found = ops.convert_to_numpy(model(images.numpy().transpose(0, 2, 3, 1))["logits"])
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-4)


SIZES = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "num_heads": 2}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_timm(name, tmp_path):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    from safetensors.torch import save_file

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    theirs = random_weights(torch, timm.create_model(name, **sizes))
    path = tmp_path / "model.safetensors"
    save_file(theirs.state_dict(), path)
    images = torch.randn(3, 3, 32, 32)
    ours = safetensors_model("timm", **SIZES)
    if "distilled" in name:
        assert_refused(path, "of a distilled model", model=ours)
    else:
        compare(ours, path, images, theirs(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
def test_transformers(kind, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, intermediate_size=128, num_labels=5)
    theirs = random_weights(torch, getattr(transformers, f"{kind}ForImageClassification")(config))
    theirs.save_pretrained(tmp_path)
    images = torch.randn(3, 3, 32, 32)
    ours = safetensors_model("hugging_face", **SIZES)
    if kind == "DeiT":  # always with the second token; files of DeiT without are of the class ViT
        assert_refused(tmp_path / "model.safetensors", "of a distilled model", model=ours)
    else:
        compare(ours, tmp_path / "model.safetensors", images, theirs(images).logits)
