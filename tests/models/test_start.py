import dataclasses
import hashlib
import shutil

import keras
import numpy as np
import pytest
from keras import ops
from refusals import assert_untouched
from safetensors.numpy import load_file, save_file

import keras_adavit as ka
from keras_adavit.models import presets
from keras_adavit.models.start import load_weights
from keras_adavit.weights import download
from keras_adavit.weights.transfer import weights_by_path

SIZES = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2}
GATES = ka.GateConfig()


def make(num_classes=5, gates=None, **changes):
    """A model of the sizes of the safetensors files in the fixtures, with weights that nothing else has."""
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**{**SIZES, **changes}, gates=gates), num_classes)
    rng = np.random.default_rng()
    for path, variable in weights_by_path(model).items():
        if not path.endswith("threshold"):
            variable.assign(rng.normal(size=variable.shape, scale=0.2))
    return model


@pytest.fixture
def save(tmp_path):
    """Saves a model and returns the path."""

    def save(model):
        model.save(tmp_path / "model.keras")
        return tmp_path / "model.keras"

    return save


def arrays(model):
    return {path: ops.convert_to_numpy(variable) for path, variable in weights_by_path(model).items()}


def differing(model, source):
    """Paths of the weights in which two models differ, of those that both have."""
    own, other = arrays(model), arrays(source)
    return {path for path in own.keys() & other.keys() if not np.array_equal(own[path], other[path])}


@pytest.mark.parametrize("gates", [None, GATES])
def test_model_of_the_same_kind(gates, save):
    model, source = make(gates=gates), make(gates=gates)
    if gates:
        source.backbone.blocks[1].token_gate.threshold.assign(0.7)  # as calibration does
    report = load_weights(model, save(source))
    assert differing(model, source) == set()
    assert report.loaded == {path: [path] for path in arrays(model)}
    assert (report.kept, report.ignored, report.notes, report.new_classifier) == ({}, {}, [], False)


def test_dense_file_for_a_gated_model(save):
    model, source = make(gates=GATES), make()
    before = arrays(model)
    report = load_weights(model, save(source))
    assert differing(model, source) == set()
    gates = {path for path in before if "_gate/" in path}
    assert report.kept == dict.fromkeys(gates, "gates: the file is of a dense model")
    assert all(np.array_equal(arrays(model)[path], before[path]) for path in gates)


def test_gated_file_for_a_dense_model(save):
    model, source = make(), make(gates=ka.GateConfig(normalize_policy_input=True))
    report = load_weights(model, save(source))
    assert differing(model, source) == set()
    assert set(report.ignored) == arrays(source).keys() - arrays(model).keys()
    assert "ignored: " in report.summary
    assert "gates: the model is dense" in report.summary


@pytest.mark.parametrize("gates", [None, GATES])
def test_another_image_size_and_number_of_classes(gates, save):
    model, source = make(3, gates, image_size=32), make(gates=gates)
    report = load_weights(model, save(source))
    classifier = {"head/kernel", "head/bias"}
    assert differing(model, source) == {"position", *classifier}
    assert report.notes == ["positions interpolated from 2×2 to 4×4"]
    assert set(report.kept) == set(report.ignored) == classifier
    assert report.new_classifier


def test_thresholds_that_the_model_sets_itself(save):
    model, source = make(gates=ka.GateConfig(token_threshold=0.7, temperature=2.0)), make(gates=GATES)
    report = load_weights(model, save(source))
    assert differing(model, source) == {"block_0/token_gate/threshold", "block_1/token_gate/threshold"}
    assert set(report.kept) == differing(model, source)


def test_tokens_to_token(save):
    sizes = {"image_size": 32, "patch_size": 16, "stem": "t2t_performer", "token_width": 4}
    model, source = make(**sizes), make(gates=GATES, **sizes)
    load_weights(model, save(source))
    assert differing(model, source) == set()


def test_model_that_was_trained(save):
    """The file's optimizer and step count stay there."""
    model, source = make(), make()
    source.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    source.train_on_batch(np.zeros((2, 16, 16, 3), "float32"), np.array([0, 1]))
    load_weights(model, save(source))
    assert differing(model, source) == set()
    assert int(source.step) == 1
    assert int(model.step) == 0


REFUSED = {
    "heads": ({"num_heads": 4}, None, "with num_heads=4 instead of 2"),
    "width": ({"width": 8}, None, "class_token (1, 1, 8) instead of (1, 1, 16)"),
    "depth": ({"depth": 3}, None, "weights not in the model (12): block_2/"),
    "biases": ({"qkv_bias": False}, None, "weights missing (2): block_0/attention/qkv/bias"),
    "channels": ({"channels": 1}, None, "stem/projection/kernel (64, 16) instead of (192, 16)"),
    "gates": ({"gates": ka.GateConfig(heads=None)}, GATES, "with heads=None instead of 'full'"),
    "meaning": ({"gates": ka.GateConfig(heads="partial")}, GATES, "with heads='partial' instead of 'full'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_do_not_fit(kind, save):
    sizes, gates, message = REFUSED[kind]
    path, model = save(make(**sizes)), make(gates=gates)
    with assert_untouched(model), pytest.raises(ka.InputError) as error:
        load_weights(model, path)
    assert str(error.value).isprintable()
    for part in ("The checkpoint must ", "of which nothing was changed", f"Received: {path}", message):
        assert part in str(error.value)


def test_damaged_file(save):
    path = save(make())
    path.write_bytes(path.read_bytes()[:-100])
    model = make()
    with assert_untouched(model), pytest.raises(ka.InputError, match=r"The model must be a complete \.keras file"):
        load_weights(model, path)


@pytest.mark.parametrize("weights", [None, "", 3, b"x.pth", "imagenet1k", "none.keras", "\0", np.zeros(3)])
def test_weights_that_are_no_file(weights):
    with pytest.raises(ka.InputError, match=r"^`weights` must be 'imagenet', or the path of a .* Received: weights="):
        load_weights(make(), weights)


def test_other_wrong_arguments(fixtures):
    path = fixtures / "timm_vit_micro.safetensors"
    with pytest.raises(ka.InputError, match="`model` must be an `AdaViTClassifier`"):
        load_weights(make().backbone, path)
    with pytest.raises(ka.InputError, match="`name` must be that of a preset"):
        load_weights(make(), path, preset="ada_deit_huge")
    with pytest.raises(ka.InputError, match="`weights` must be the path of a file for a model of no preset"):
        load_weights(make(), "imagenet")


@pytest.mark.parametrize("gates", [None, GATES])
def test_safetensors_file(gates, fixtures):
    model = make(gates=gates)
    report = load_weights(model, fixtures / "timm_vit_micro.safetensors")
    expected = load_file(fixtures / "timm_vit_micro.safetensors")["cls_token"]
    np.testing.assert_array_equal(ops.convert_to_numpy(model.backbone.class_token), expected)
    assert bool(report.kept) == bool(gates)


def test_pytorch_file(fixtures):
    pytest.importorskip("torch")
    sizes = {"image_size": 64, "patch_size": 16, "width": 96, "depth": 4, "num_heads": 3}
    assert load_weights(make(3, **sizes), str(fixtures / "deit_micro_dense.pth")).new_classifier


@pytest.mark.parametrize("gates", [None, GATES])
def test_imagenet(gates, fixtures, tmp_path, monkeypatch):
    """From the cache, in which the file of a preset lies already."""
    published = fixtures / "timm_vit_micro.safetensors"
    name = f"deit_micro-{hashlib.sha256(published.read_bytes()).hexdigest()[:8]}.safetensors"
    (tmp_path / "models").mkdir()
    shutil.copy(published, tmp_path / "models" / name)
    monkeypatch.setattr(download, "CACHE", str(tmp_path))
    micro = dataclasses.replace(presets.PRESETS["ada_deit_tiny_patch16_224"], file=name)
    monkeypatch.setitem(presets.PRESETS, "micro", micro)
    model = make(gates=gates)
    load_weights(model, "imagenet", preset="micro")
    expected = load_file(published)["cls_token"]
    np.testing.assert_array_equal(ops.convert_to_numpy(model.backbone.class_token), expected)


def test_nothing_changes_when_the_last_weight_does_not_fit(fixtures, tmp_path):
    content = load_file(fixtures / "timm_vit_micro.safetensors")
    save_file({**content, "norm.bias": np.zeros(3, "f4")}, tmp_path / "wrong.safetensors")
    model = make()
    with assert_untouched(model), pytest.raises(ka.InputError, match=r"norm\.bias"):
        load_weights(model, tmp_path / "wrong.safetensors")
