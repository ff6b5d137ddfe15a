import dataclasses
import functools
import hashlib
import http.server
import json
import math
import shutil
import threading

import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save_file

import keras_adavit as ka
from keras_adavit.models import presets
from keras_adavit.weights import download
from keras_adavit.weights.checkpoint import Checkpoint
from keras_adavit.weights.load import match
from keras_adavit.weights.transfer import weights_by_path

# The five published gated models: their preset, and their parameters exactly.
PUBLISHED = {
    "ada_step_deit_tiny_patch16_224": ("ada_deit_tiny_patch16_224", 5_730_347),
    "ada_step_deit_small_patch16_224": ("ada_deit_small_patch16_224", 22_089_164),
    "ada_step_deit_base_patch16_224": ("ada_deit_base_patch16_224", 86_695_310),
    "ada_step_t2t_vit_14_lnorm": ("ada_t2t_vit_14", 21_590_980),
    "ada_step_t2t_vit_19_lnorm": ("ada_t2t_vit_19", 39_258_691),
}
# Parameters in millions and 10⁹ MACs of the dense models, as their papers give them.
DENSE = {
    "ada_deit_tiny_patch16_224": (5.7, 1.3),
    "ada_deit_small_patch16_224": (22.1, 4.6),
    "ada_deit_base_patch16_224": (86.6, 17.6),
    "ada_t2t_vit_7": (4.3, 1.1),
    "ada_t2t_vit_10": (5.9, 1.5),
    "ada_t2t_vit_12": (6.9, 1.8),
    "ada_t2t_vit_14": (21.5, 4.8),
    "ada_t2t_vit_19": (39.2, 8.5),
    "ada_t2t_vit_24": (64.1, 13.8),
    "ada_t2t_vit_t_14": (21.5, 6.1),
    "ada_t2t_vit_t_19": (39.2, 9.8),
    "ada_t2t_vit_t_24": (64.1, 15.0),
}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request, fixtures):
    """A gated preset, its published parameters, and the published shapes by name."""
    preset, parameters = PUBLISHED[request.param]
    shapes = json.loads((fixtures / "state_dict_shapes.json").read_text())[request.param]
    return ka.AdaViTClassifier.from_preset(preset), parameters, shapes


def sizes(model):
    return {path: math.prod(variable.shape) for path, variable in weights_by_path(model).items()}


def test_parameters_are_the_published_ones(published):
    model, parameters, _ = published
    # Fixed positions and random features count there as here; here alone, each gate has its threshold as a weight.
    assert sum(size for path, size in sizes(model).items() if not path.endswith("/threshold")) == parameters
    gates = 3 * model.backbone.depth - 2
    assert sum(path.endswith("/threshold") for path in sizes(model)) == gates


def test_every_published_name_and_shape_loads(published):
    model, _, shapes = published
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    targets = {path: tuple(variable.shape) for path, variable in weights_by_path(model).items()}
    values, report = match(Checkpoint("fake", "", arrays, has_checksums=True), targets, model.backbone.stem_kind)
    assert sorted(name for names in report.loaded.values() for name in names) == sorted(shapes)
    assert all(path.endswith("/threshold") for path in targets.keys() - values.keys())
    assert report.ignored == {}


@pytest.mark.parametrize("name", DENSE)
def test_listing_agrees_with_the_papers(name):
    preset = ka.AdaViTClassifier.presets[name]
    millions, giga = DENSE[name]
    assert preset.parameters / 1e6 == pytest.approx(millions, abs=0.051)
    assert preset.dense_macs / 1e9 == pytest.approx(giga, abs=0.06 if giga < 13 else 0.11)
    assert f"dense_macs={preset.dense_macs}" in str(ka.AdaViTClassifier.presets)


@pytest.mark.slow
@pytest.mark.parametrize("name", presets.PRESETS)
def test_listing_agrees_with_the_model(name):
    preset, model = presets.PRESETS[name], ka.AdaViTClassifier.from_preset(name, gates=None)
    assert sum(sizes(model).values()) == preset.parameters
    assert model.dense_macs == preset.dense_macs
    assert preset.file.startswith("deit_") or preset.file.startswith(f"{preset.top1}_T2T_ViT")


def test_listing_is_complete():
    assert DENSE.keys() == ka.AdaViTClassifier.presets.keys()


@pytest.mark.parametrize("name", ["ada_deit_tiny_patch16_224", "ada_t2t_vit_7"])
def test_gates_change_positions_of_deit_alone(name):
    dense, gated = (ka.AdaViTClassifier.from_preset(name, gates=gates) for gates in (None, ka.GateConfig()))
    t2t = "t2t" in name
    assert dense.backbone.positions == ("sinusoid" if t2t else "learned")
    assert gated.backbone.positions == "sinusoid"
    assert gated.backbone.gates == ka.GateConfig()
    assert dense.backbone.gates is None
    assert dense.preprocessing == gated.preprocessing == ka.Preprocessing(crop_fraction=0.9)
    assert (dense.backbone.qkv_bias, dense.backbone.layer_norm_epsilon) == ((False, 1e-5) if t2t else (True, 1e-6))


def test_another_image_size_and_number_of_classes():
    model = ka.AdaViTClassifier.from_preset("ada_t2t_vit_7", num_classes=5, image_size=64)
    outputs = model(np.zeros((2, 64, 64, 3), "float32"))
    assert tuple(outputs["logits"].shape) == (2, 5)
    assert tuple(outputs["token_keep"].shape) == (2, 7, 17)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ada_deit_smal",), "`name` must be that of a preset, such as ada_deit_small_patch16_224"),
        (("ada_t2t_vit_14", 1000, 100), "`image_size` must be a multiple of `patch_size`"),
        (("ada_t2t_vit_14", 1000, 224, None, "jft"), "`weights` must be 'imagenet', the path of a .pth or"),
        (("ada_t2t_vit_14", 1000, 224, None, 3), "or None. Received: weights=3"),
        (("ada_t2t_vit_14", 1000, 224, None, np.zeros(2)), "or None. Received: weights=float64 of the shape (2,)"),
        (("ada_t2t_vit_14", 1000, 224, ka.GateConfig(), "imagenet"), "`weights` of the gated models have no public"),
    ],
)
def test_impossible_presets_are_refused(arguments, message):
    with pytest.raises(ka.InputError) as error:
        ka.AdaViTClassifier.from_preset(*arguments)
    assert message in str(error.value)


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A folder that is served as if it were the published release."""
    folder = tmp_path / "release"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("DEIT_RELEASE", "T2T_RELEASE"):
        monkeypatch.setattr(download, name, f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(download, "CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def serve(release, checkpoint, name, monkeypatch):
    """Serves a checkpoint as the weights of a preset `micro`, a dense DeiT of its size."""
    shutil.copyfile(checkpoint, release / name)
    micro = dataclasses.replace(presets.PRESETS["ada_deit_tiny_patch16_224"], width=96, depth=4, file=name)
    monkeypatch.setitem(presets.PRESETS, "micro", micro)
    return functools.partial(ka.AdaViTClassifier.from_preset, "micro", gates=None, weights="imagenet")


@pytest.mark.parametrize("kind", ["deit", "t2t"])
def test_imagenet_weights_are_fetched_and_loaded(kind, release, fixtures, monkeypatch):
    pytest.importorskip("torch")
    checkpoint = fixtures / "deit_micro_dense.pth"
    digits = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:8]
    name = f"deit_micro-{digits}.pth" if kind == "deit" else "99.9_T2T.pth.tar"
    build = serve(release, checkpoint, name, monkeypatch)
    golden = np.load(fixtures / "deit_micro_dense.npz")
    for _ in range(2):  # the second time without the server
        logits = build(num_classes=10, image_size=64)(golden["images_nchw"].transpose(0, 2, 3, 1))["logits"]
        np.testing.assert_allclose(ops.convert_to_numpy(logits), golden["logits"], rtol=1e-4, atol=1e-4)
        (release / name).unlink(missing_ok=True)
    # Another size and another number of classes than the file's.
    assert tuple(build(num_classes=3, image_size=96)(np.zeros((1, 96, 96, 3), "float32"))["logits"].shape) == (1, 3)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("gates", [None, ka.GateConfig()])
def test_weights_of_a_file(suffix, gates, fixtures, tmp_path, monkeypatch):
    micro = dataclasses.replace(presets.PRESETS["ada_deit_tiny_patch16_224"], width=96, depth=4)
    monkeypatch.setitem(presets.PRESETS, "micro", micro)
    torch = pytest.importorskip("torch")
    path = fixtures / "deit_micro_dense.pth"
    if suffix == "safetensors":
        weights = torch.load(path, weights_only=True)["model"]
        path = tmp_path / "deit_micro_dense.safetensors"
        save_file({name: value.numpy() for name, value in weights.items()}, path)
    model = ka.AdaViTClassifier.from_preset("micro", 10, 64, gates=gates, weights=path)
    golden = np.load(fixtures / "deit_micro_dense.npz")  # new gates keep everything
    logits = model(golden["images_nchw"].transpose(0, 2, 3, 1))["logits"]
    np.testing.assert_allclose(ops.convert_to_numpy(logits), golden["logits"], rtol=1e-4, atol=1e-4)


def test_weights_of_another_preset(fixtures):
    with pytest.raises(ka.InputError, match=r"the preset, .*width 16, depth 2; the model: width 192, depth 12"):
        ka.AdaViTClassifier.from_preset(
            "ada_deit_tiny_patch16_224", gates=None, weights=fixtures / "timm_vit_micro.safetensors"
        )


def test_a_file_that_is_not_the_published_one_is_refused(release, fixtures, monkeypatch, tmp_path):
    build = serve(release, fixtures / "deit_micro_dense.pth", "deit_micro-01234567.pth", monkeypatch)
    with pytest.raises(ka.InputError, match="SHA-256 starts with 01234567; the copy is deleted"):
        build(num_classes=10, image_size=64)
    assert list((tmp_path / "cache").rglob("*.pth")) == []


def test_a_file_that_cannot_be_fetched_is_one_sentence(release, fixtures, monkeypatch):
    build = serve(release, fixtures / "deit_micro_dense.pth", "deit_micro-01234567.pth", monkeypatch)
    (release / "deit_micro-01234567.pth").unlink()
    with pytest.raises(ka.InputError, match="could not be fetched; bring the file") as error:
        build(num_classes=10, image_size=64)
    assert "\n" not in str(error.value)
    answer = error.value.__cause__.__context__
    assert answer.code == 404
    assert answer.fp.closed  # else its connection stays open until it is collected
