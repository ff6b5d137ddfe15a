import argparse
import os
import shutil
import sys

import keras
import numpy as np
import pytest
from keras import ops
from published import MICRO, micro_model

import keras_adavit as ka
from keras_adavit.weights.transfer import weights_by_path

torch = pytest.importorskip("torch")


@pytest.fixture
def dense(fixtures):
    """The weights of the dense DeiT in small, as tensors by published name."""
    return torch.load(fixtures / "deit_micro_dense.pth", weights_only=True)["model"]


@pytest.fixture
def save(tmp_path):
    """Saves a content and returns the path."""

    def save(content):
        torch.save(content, tmp_path / "checkpoint.pth")
        return tmp_path / "checkpoint.pth"

    return save


def logits(model, fixtures, name="deit_micro_dense"):
    images = np.load(fixtures / f"{name}.npz")["images_nchw"].transpose(0, 2, 3, 1)
    return ops.convert_to_numpy(model(images)["logits"])


def refuse(model, path, *messages):
    """Checks that a file is refused in one sentence and that the model stays as it was."""
    before = model.get_weights()
    with pytest.raises(ka.InputError) as error:
        ka.load_torch_checkpoint(model, path)
    assert "\n" not in str(error.value)
    for message in messages:
        assert message in str(error.value)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_published_gates_have_not_stays_new(fixtures):
    model = micro_model("ada_deit_micro", gates=ka.GateConfig(token_context=True, follow_budget=True))
    report = ka.load_torch_checkpoint(model, fixtures / "ada_deit_micro.pth")
    new = {path for path, why in report.kept.items() if why == "a weight that published gates have not"}
    assert new == {path for path in weights_by_path(model) if path.endswith(("/context_kernel", "/budget_rate"))}
    assert new


@pytest.mark.parametrize("name", MICRO)
def test_report_accounts_for_every_name(name, fixtures):
    model = micro_model(name)
    report = ka.load_torch_checkpoint(model, fixtures / f"{name}.pth")
    content = next(iter(torch.load(fixtures / f"{name}.pth", weights_only=True).values()))
    assert sorted(each for names in report.loaded.values() for each in names) == sorted(content)
    assert report.loaded.keys() | report.kept.keys() == weights_by_path(model).keys()
    assert all(path.endswith("/threshold") for path in report.kept)
    assert report.ignored == {}
    assert all(name in str(report) for name in content)
    assert f"{len(report.loaded)} weights from {len(content)} arrays" in report.summary


def test_training_checkpoint_with_its_arguments_and_prefixes(dense, save, fixtures):
    weights = {f"module.{name}": value.half() for name, value in dense.items()}
    training = {"epoch": 3, "args": argparse.Namespace(lr=0.1, model=None), "optimizer": {"state": {}}}
    other = {f"module.{name}": torch.zeros_like(value) for name, value in dense.items()}
    model = micro_model("deit_micro_dense")
    report = ka.load_torch_checkpoint(model, save({**training, "state_dict": other, "state_dict_ema": weights}))
    assert report.key == "state_dict_ema"
    golden = np.load(fixtures / "deit_micro_dense.npz")["logits"]
    np.testing.assert_allclose(logits(model, fixtures), golden, atol=0.02)


def test_bare_weights_and_separate_query_key_value(dense, save, fixtures):
    for index in range(4):
        for kind in ("weight", "bias"):
            fused = dense.pop(f"blocks.{index}.attn.qkv.{kind}")
            for part, value in zip(("query", "key", "value"), fused.chunk(3), strict=True):
                dense[f"blocks.{index}.attn.{part}.{kind}"] = value
    model = micro_model("deit_micro_dense")
    assert ka.load_torch_checkpoint(model, save(dense)).key == ""
    golden = np.load(fixtures / "deit_micro_dense.npz")["logits"]
    np.testing.assert_allclose(logits(model, fixtures), golden, rtol=1e-4, atol=1e-4)


def test_dense_file_leaves_the_gates_new(fixtures):
    model = micro_model("ada_deit_micro")
    before = {path: ops.convert_to_numpy(variable) for path, variable in weights_by_path(model).items()}
    report = ka.load_torch_checkpoint(model, fixtures / "deit_micro_dense.pth")
    assert report.kept.keys() == {path for path in before if "_gate/" in path}
    assert "gates: the file is of a dense model" in report.summary
    for path in report.kept:
        np.testing.assert_array_equal(ops.convert_to_numpy(weights_by_path(model)[path]), before[path])
    # New gates keep everything, so this is the dense model.
    golden = np.load(fixtures / "deit_micro_dense.npz")["logits"]
    np.testing.assert_allclose(logits(model, fixtures), golden, rtol=1e-4, atol=1e-4)


def test_another_number_of_classes_leaves_the_classifier_new(fixtures):
    model = micro_model("deit_micro_dense", num_classes=7)
    kernel = ops.convert_to_numpy(model.head.kernel)
    report = ka.load_torch_checkpoint(model, fixtures / "deit_micro_dense.pth")
    assert report.kept == dict.fromkeys(["head/kernel", "head/bias"], "classifier: of 7 classes, the file's of 10")
    assert report.ignored.keys() == {"head.weight", "head.bias"}
    np.testing.assert_array_equal(ops.convert_to_numpy(model.head.kernel), kernel)


@pytest.mark.parametrize("name", ["deit_micro_dense", "ada_t2t_micro"])
def test_positions_of_another_image_size_are_interpolated(name, fixtures):
    model = micro_model(name, image_size=96)
    report = ka.load_torch_checkpoint(model, fixtures / f"{name}.pth")
    assert "positions interpolated from 4×4 to 6×6" in report.summary
    original = next(iter(torch.load(fixtures / f"{name}.pth", weights_only=True).values()))["pos_embed"]
    found = ops.convert_to_numpy(model.backbone.position)
    assert found.shape == (1, 37, original.shape[-1])
    np.testing.assert_array_equal(found[:, 0], original[:, 0])
    grid = original[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (6, 6), mode="bicubic")[0].permute(1, 2, 0)
    np.testing.assert_allclose(found[0, 1:].reshape(6, 6, -1), expected.numpy(), atol=1e-6)


def test_missing_names_are_listed(dense, save):
    del dense["norm.weight"], dense["blocks.2.mlp.fc1.bias"]
    refuse(micro_model("deit_micro_dense"), save(dense), "weights missing (2):", "norm.weight", "blocks.2.mlp.fc1.bias")


def test_names_without_a_place_are_listed(dense, save):
    dense["norm_pre.weight"] = torch.zeros(96)
    refuse(micro_model("deit_micro_dense"), save(dense), "weights not in the model (1): norm_pre.weight")


def test_wrong_shapes_are_listed(dense, save):
    dense["blocks.1.attn.proj.weight"] = torch.zeros(96, 95)
    message = "weights of another shape (1): blocks.1.attn.proj.weight (95, 96) instead of (96, 96)"
    refuse(micro_model("deit_micro_dense"), save(dense), message)
    for wrong in (torch.zeros(()), torch.zeros(2, 3, 4)):
        dense["blocks.1.attn.proj.weight"] = wrong
        refuse(micro_model("deit_micro_dense"), save(dense), "blocks.1.attn.proj.weight")


@pytest.mark.parametrize("num_classes", [7, 10])
def test_classifier_whose_parts_disagree(num_classes, dense, save):
    dense["head.bias"] = torch.zeros(7)
    refuse(micro_model("deit_micro_dense", num_classes=num_classes), save(dense), "for the same classes")


def test_parts_of_query_key_value_of_wrong_shapes(fixtures, save):
    content = torch.load(fixtures / "ada_deit_micro.pth", weights_only=True)
    content["state_dict_ema"]["blocks.0.attn.key.weight"] = torch.zeros(96, 95)
    refuse(micro_model("ada_deit_micro"), save(content), "blocks.0.attn.key.weight")


def test_gates_of_another_kind_are_refused(fixtures):
    refuse(micro_model("ada_deit_micro"), fixtures / "ada_deit_micro_tokens_only.pth", "blocks.1.head_select.mlp_head")
    refuse(
        micro_model("deit_micro_dense"),
        fixtures / "ada_deit_micro.pth",
        "weights not in the model (20):",
        "and 10 more",
    )


def test_another_model_is_refused(fixtures):
    refuse(micro_model("ada_deit_micro"), fixtures / "ada_t2t_micro.pth", "patch_embed.proj.weight", "tokens_to_token")


def test_distilled_models_are_refused(dense, save):
    dense["dist_token"] = torch.zeros(1, 1, 96)
    refuse(micro_model("deit_micro_dense"), save(dense), "of a distilled model, whose second class token")


@pytest.fixture
def normalized(fixtures):
    """Weights of a model whose gates read a normalised input, as the published code names them."""
    weights = torch.load(fixtures / "ada_deit_micro.pth", weights_only=True)["state_dict_ema"]
    for index in (1, 2, 3):
        for parameter in ("weight", "bias"):
            weights[f"blocks.{index}.norm_policy.{parameter}"] = torch.randn(96)
    return weights


def test_normalised_policy_input(normalized, save):
    model = micro_model("ada_deit_micro", gates=ka.GateConfig(normalize_policy_input=True))
    report = ka.load_torch_checkpoint(model, save({"state_dict_ema": normalized}))
    assert report.loaded["block_1/policy_norm/gamma"] == ["blocks.1.norm_policy.weight"]
    assert report.ignored == {}
    for index in (1, 2, 3):
        for ours, published in (("gamma", "weight"), ("beta", "bias")):
            found = ops.convert_to_numpy(getattr(model.backbone.blocks[index].policy_norm, ours))
            np.testing.assert_array_equal(found, normalized[f"blocks.{index}.norm_policy.{published}"].numpy())
    refuse(micro_model("ada_deit_micro"), save(normalized), "not in the model (6): blocks.1.norm_policy.weight")


UNFIT = {
    "NaN": (lambda value: value.fill_(float("nan")), "which has NaN or infinite values"),
    "infinite": (lambda value: value.fill_(-float("inf")), "which has NaN or infinite values"),
    "too large for float32": (lambda value: value.double() + 1e39, "which has NaN or infinite values"),
    "integer": (lambda value: value.to(torch.int32), "of int32"),
    "boolean": (lambda value: value > 0, "of bool"),
    "complex": (lambda value: value.to(torch.complex64), "of complex64"),
    "sparse": (lambda value: value.to_sparse(), "of float32 (sparse_coo)"),
    "repeated": (lambda value: torch.zeros(1).expand(2**20, 2**20), "which claims more numbers than the file holds"),
    "without data": (lambda value: value.to("meta"), "which is no array of numbers"),
}


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_weights_that_are_no_finite_numbers(kind, dense, save):
    make, message = UNFIT[kind]
    dense["blocks.1.mlp.fc1.weight"] = make(dense["blocks.1.mlp.fc1.weight"].clone())
    refuse(micro_model("deit_micro_dense"), save(dense), f"with blocks.1.mlp.fc1.weight, {message}")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_weights(dense, save):
    quantized = torch.quantize_per_tensor(dense["norm.weight"], 0.1, 0, torch.qint8)
    refuse(micro_model("deit_micro_dense"), save({**dense, "norm.weight": quantized}), "norm.weight, of qint8")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_precisions(dtype, dense, save):
    rounded = {name: value.to(getattr(torch, dtype)) for name, value in dense.items()}
    model = micro_model("deit_micro_dense")
    ka.load_torch_checkpoint(model, save(rounded))
    found = ops.convert_to_numpy(model.backbone.class_token)
    np.testing.assert_array_equal(found, rounded["cls_token"].float().numpy())


def test_a_weight_under_two_names(dense, save):
    dense["module.norm.bias"] = dense["norm.bias"] + 1
    refuse(micro_model("deit_micro_dense"), save(dense), "must hold each weight once", "norm.bias and module.norm.bias")


def test_names_that_would_break_a_line(dense, save):
    dense["line\nbreak"] = torch.zeros(1)
    refuse(micro_model("deit_micro_dense"), save(dense), r"line\nbreak")
    refuse(micro_model("deit_micro_dense"), save({"a\nb": 1}), r"the keys a\nb")


def test_path_that_is_no_text(fixtures, tmp_path):
    path = shutil.copy(fixtures / "deit_micro_dense.pth", os.path.join(tmp_path, os.fsdecode(b"caf\xe9.pth")))
    model = micro_model("deit_micro_dense")
    assert r"caf\udce9.pth" in ka.load_torch_checkpoint(model, path).summary
    with open(path, "r+b") as file:
        file.truncate(1000)
    refuse(model, path, r"caf\udce9.pth")


@pytest.mark.parametrize("path", ["", "\0", "x" * 5000, "~nobody_of_this_name/x.pth", None, 3, b"x.pth"])
def test_paths_that_are_no_file(path):
    refuse(micro_model("deit_micro_dense"), path, "The checkpoint must be", "Received: ")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_folders_and_pipes(make, tmp_path):
    make(tmp_path / "weights.pth")
    refuse(micro_model("deit_micro_dense"), tmp_path / "weights.pth", "must be an existing file")


def test_file_that_may_not_be_read(fixtures, monkeypatch):
    def refuse_all(path, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse_all)  # tests may run as a user to whom no permission is denied
    refuse(micro_model("deit_micro_dense"), fixtures / "deit_micro_dense.pth", "(Permission denied)")


def test_model_of_something_else(fixtures):
    with pytest.raises(ka.InputError, match="`model` must be an `AdaViTClassifier`"):
        ka.load_torch_checkpoint(None, fixtures / "deit_micro_dense.pth")


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


BROKEN = {
    "truncated": (lambda data, _: data[: len(data) // 2], "truncated or damaged, or of another kind"),
    "empty": (lambda data, _: b"", "truncated or damaged, or of another kind"),
    "text": (lambda data, _: b"no checkpoint\n" * 20, "truncated or damaged, or of another kind"),
    "picture": (lambda data, _: b"\xff\xd8\xff\xe0" + bytes(100), "truncated or damaged, or of another kind"),
    "code": (lambda _, save: save({"model": RunsCode()}).read_bytes(), "it wants to run code"),
    "module": (lambda _, save: save(torch.nn.Linear(1, 1)).read_bytes(), "it wants to run code, torch.nn"),
    "list": (lambda _, save: save([1, 2]).read_bytes(), "which holds a list"),
    "no weights": (lambda _, save: save({"epoch": 3}).read_bytes(), "which holds the keys epoch"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(kind, fixtures, save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = BROKEN[kind]
    path = tmp_path / "broken.pth"
    path.write_bytes(make((fixtures / "deit_micro_dense.pth").read_bytes(), save))
    refuse(micro_model("deit_micro_dense"), path, "The checkpoint must", message, str(path))
    assert not (tmp_path / "ran").exists()


def test_missing_file(tmp_path):
    refuse(micro_model("deit_micro_dense"), tmp_path / "none.pth", "must be an existing file. Received:")


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch cannot be hidden where it is the backend")
def test_torch_not_installed(fixtures, monkeypatch):
    model = micro_model("deit_micro_dense")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ka.InputError, match="PyTorch must be installed to read its files"):
        ka.load_torch_checkpoint(model, fixtures / "deit_micro_dense.pth")
