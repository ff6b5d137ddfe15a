"""`keras-adavit evaluate` of images by name, and its pictures."""

import json

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from gated import make_model

import keras_adavit as ka
from keras_adavit.commands.arguments import parse
from keras_adavit.commands.evaluate import Arguments
from keras_adavit.commands.main import main
from keras_adavit.evaluation import calibration

NAMES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def model():
    model = make_model(depth=2)
    model.class_names, model.preprocessing = NAMES, ka.Preprocessing(crop_fraction=0.9)
    model.save("model.keras")
    return model


def save_photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3))
    keras.utils.save_img(path, pixels, scale=False)


@pytest.fixture(autouse=True)
def photos(tmp_path):
    """`a.png`, and 14 photos in `more/`."""
    save_photo(tmp_path / "a.png")
    for index in range(14):
        save_photo(tmp_path / "more" / f"{index:02}.jpg", index)


@pytest.fixture
def folder(tmp_path):
    """A data set of the model's classes."""
    for split, count in (("train", 1), ("val", 2)):
        for label, name in enumerate(NAMES):
            for index in range(count):
                save_photo(tmp_path / "data" / split / name / f"{index}.png", label)
    return "data"


def run(capsys, *arguments):
    """Exit code, and standard output and standard error, each in one line."""
    capsys.readouterr()
    code = main(["evaluate", "model.keras", *arguments])
    return code, *(" ".join(text.split()) for text in capsys.readouterr())


@pytest.mark.parametrize("options", [(), ("--execution", "packed", "--batch-size", "4")])
def test_images_by_name(options, capsys, tmp_path):
    code, out, err = run(capsys, "--images", "a.png", "more", "--json", "found.json", *options)
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each["file"] for each in found] == ["a.png", *(f"more/{index:02}.jpg" for index in range(14))]
    for each in found:
        assert each["classes"] == [NAMES[label] for label in each["labels"]]
        assert sum(each["probabilities"]) == pytest.approx(1)
        assert f"{each['file']}: {each['macs_share']:.3f} of the dense model's MACs" in out


def test_images_by_name_under_another_policy(capsys, tmp_path):
    for usage in ("1.0", "0.0"):
        options = ("--policy", "random", "--token-usage", usage, "--json", f"{usage}.json")
        assert run(capsys, "--images", "a.png", *options)[0] == 0
    most, least = (json.loads((tmp_path / f"{usage}.json").read_text())[0]["macs"] for usage in ("1.0", "0.0"))
    assert least < most


@pytest.mark.parametrize(
    ("policy", "options", "tokens"),
    [
        (ka.TopKPolicy(0.25), ("--policy", "topk", "--token-usage", "0.25", "--execution", "packed"), 5),
        (ka.MergePolicy(3), ("--policy", "merge", "--merged", "3", "--picture", "policy.png"), 14),
    ],
    ids=["topk", "merge"],
)
def test_policies_of_a_dense_model(policy, options, tokens, folder, capsys, tmp_path):
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(32, 8, 24, 2, 3), 5, class_names=NAMES)
    model.save("model.keras")
    outputs = ("--json", "found.json", "--analyze", "images.npz")
    code, out, err = run(capsys, "--data", folder, *options, *outputs)
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["macs_share"] == pytest.approx(model.macs(policy) / model.dense_macs, rel=1e-5)
    assert found["token_usage"] == pytest.approx([1, tokens / 17])
    assert f"{found['macs_share']:.3f} of the dense model's" in out
    assert f"{tokens / 17:.3f}" in out
    with np.load(tmp_path / "images.npz") as images:
        assert (images["token_keep"][:, 1].sum(axis=1) == tokens).all()


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ([], None),
        (["--policy", "topk"], ka.TopKPolicy()),
        (["--policy", "topk", "--token-usage", "0.3"], ka.TopKPolicy(0.3)),
        (["--policy", "merge"], ka.MergePolicy()),
        (["--policy", "merge", "--merged", "0"], ka.MergePolicy(0)),
    ],
)
def test_the_policy_that_options_speak_of(options, policy):
    assert parse(Arguments, prog="evaluate", args=["model.keras", *options]).make_policy() == policy


def test_picture_of_images_by_name(capsys, tmp_path):
    code, out, _ = run(capsys, "--images", "a.png", "more", "--picture", "policy.png")
    assert (code, "In the picture are the first 12 of 15 images." in out) == (0, True)
    many = keras.utils.img_to_array(keras.utils.load_img(tmp_path / "policy.png")).shape[0]
    code, out, _ = run(capsys, "--images", "a.png", "--picture", "policy.png")
    assert (code, "In the picture" in out) == (0, False)
    assert keras.utils.img_to_array(keras.utils.load_img(tmp_path / "policy.png")).shape[0] < many / 6


def test_picture_of_a_data_set(folder, capsys, tmp_path):
    code, out, _ = run(capsys, "--data", folder, "--picture", "policy.png", "--batch-size", "4")
    assert (code, "10 images" in out) == (0, True)
    assert (tmp_path / "policy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("images", [("--images", "a.png"), ("--data", "data")])
def test_time(images, folder, capsys, tmp_path):
    code, out, _ = run(capsys, *images, "--time", "--batch-size", "4", "--json", "time.json")
    assert (code, "in batches of 4, medians of 5 turns" in out) == (0, True)
    found = json.loads((tmp_path / "time.json").read_text())
    assert min(found[name] for name in ("dense", "masked", "packed")) > 0
    assert (found["batch_size"], found["images"]) == (4, 4 if images[0] == "--images" else 8)
    for part in ("dense", "masked", "packed", f"{found['macs_share']:.3f}"):
        assert part in out


def test_budgets_of_time(folder, capsys, tmp_path, monkeypatch):
    sizes = []

    def measure(model, timed):
        sizes.extend(map(len, timed))
        return 2 - float(keras.ops.convert_to_numpy(model.backbone.blocks[0].token_gate.threshold))

    monkeypatch.setattr(calibration, "measure_milliseconds", measure)
    before = (tmp_path / "model.keras").read_bytes()
    code, out, err = run(capsys, "--data", folder, "--milliseconds", "1.6", "1.3", "--json", "curve.json")
    assert (code, err, "ms an" in out) == (0, "", True)
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert list(curve) == ["1.3", "1.6"]
    for budget, found in curve.items():
        assert found["milliseconds"] == pytest.approx(float(budget), rel=0.05)
        assert f"{found['milliseconds']:.3g}" in out
    assert curve["1.3"]["macs_share"] <= curve["1.6"]["macs_share"]
    assert set(sizes) == {10}  # all images, of which there are fewer than in a batch
    assert (tmp_path / "model.keras").read_bytes() == before
    code, out, err = run(capsys, "--data", folder, "--milliseconds", "3")
    assert (code, out, "1.0000 to 2.0000 milliseconds an image. Received: 3.0000" in err) == (2, "", True)


def test_data_of_other_classes(folder, capsys, tmp_path):
    (tmp_path / "data" / "train" / "elk").rename(tmp_path / "data" / "train" / "fox")
    (tmp_path / "data" / "val" / "elk").rename(tmp_path / "data" / "val" / "fox")
    code, out, err = run(capsys, "--data", folder)
    assert (code, out) == (2, "")
    assert err == "error: The data must have the model's classes. Received: class 4 'fox', of the model 'elk'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "a.png", "no.png"], "Received: 'no.png', which is neither"),
        (["--images", "empty"], "Received: 'empty', which holds none"),
        (
            ["--images", "a.png", "bad.png"],
            "Every image must be a sound JPEG, PNG, GIF or BMP file. Received: 'bad.png'",
        ),
        (["--images", "a.png", "--data", "data"], "`--data` needs a data set, `--images` is none. Received: both"),
        (["--images", "a.png", "--macs", "0.5"], "`--macs` needs a data set"),
        (["--images", "a.png", "--milliseconds", "0.5"], "`--milliseconds` needs a data set"),
        (
            ["--data", "data", "--macs", "0.5", "--milliseconds", "2"],
            "at several budgets, without `--macs`. Received: both",
        ),
        (["--data", "data", "--milliseconds", "2", "--policy", "open"], "`--milliseconds` prints the learned policy"),
        (
            ["--data", "data", "--milliseconds", "2", "--picture", "b.png"],
            "prints the learned policy at several budgets, without `--picture`",
        ),
        (["--data", "data", "--milliseconds", "0"], "`milliseconds` must be positive numbers"),
        (["--images", "a.png", "--analyze", "a.npz"], "`--analyze` needs a data set"),
        (["--images", "a.png", "--picture", "a.jpg"], "`--picture` must be a file ending in .png. Received: a.jpg"),
        (
            ["--data", "data", "--macs", "0.5", "--picture", "b.png"],
            "prints the learned policy at several budgets, without `--picture`",
        ),
        (["--data", "data", "--compare", "--policy", "open"], "`--compare` prints what the learned policy is worth"),
        (["--data", "data", "--dense-model", "a.keras"], "`--dense-model` needs `--compare`"),
        (["--images", "a.png", "--time", "--picture", "b.png"], "`--time` measures the learned policy, masked and"),
        (["--images", "a.png", "--time", "--execution", "packed"], "without `--execution`. Received: both"),
        (["--images", "a.png", "--time", "--batch-size", "1048576000"], "`batch_size` must be"),
        (["--data", "data", "--time", "--policy", "open"], "without `--policy`. Received: both"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_text("no photo")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_does_not_know_its_preprocessing(model, capsys):
    model.preprocessing = None
    model.save("model.keras")
    code, out, err = run(capsys, "--images", "a.png")
    assert (code, out) == (2, "")
    assert "train it anew, give a data set with `--data`" in err


@pytest.fixture
def tensorflow_datasets(tmp_path, monkeypatch):
    """Data sets of the features of ImageNet-v2 and of ReaL; the images of the latter have 0, 1 and 5 labels."""
    image, label = tfds.features.Image(encoding_format="jpeg"), tfds.features.ClassLabel(names=NAMES)
    photos = [np.random.default_rng(seed).integers(0, 256, (30, 40, 3), "uint8") for seed in range(3)]
    v2 = {"image": image, "label": label, "file_name": tfds.features.Text()}
    real = {"image": image, "original_label": label, "real_label": tfds.features.Sequence(label),
            "file_name": tfds.features.Text()}  # fmt: skip
    examples = {
        "tiny_v2": [{"label": i, "file_name": ""} for i in range(3)],
        "tiny_real": [
            {"original_label": 0, "real_label": labels, "file_name": ""} for labels in ([], [1], [0, 1, 2, 3, 4])
        ],
    }
    for name, split, features in (("tiny_v2", "test", v2), ("tiny_real", "validation", real)):
        rows = [(i, {"image": photo, **row}) for i, (photo, row) in enumerate(zip(photos, examples[name], strict=True))]
        tfds.dataset_builders.store_as_tfds_dataset(
            name, "1.0.0", tfds.features.FeaturesDict(features), {split: rows}, data_dir=str(tmp_path)
        )
    find = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: find(name, data_dir=data_dir or str(tmp_path)))


@pytest.mark.usefixtures("tensorflow_datasets")
def test_other_labels_of_imagenet(capsys, tmp_path):
    def figures(name, *options):
        code, _, errors = run(capsys, "--data", f"tfds:{name}", "--json", "figures.json", *options)
        assert code == 0, errors
        return json.loads((tmp_path / "figures.json").read_text())

    assert figures("tiny_v2")["images"] == 3
    found = figures("tiny_real", "--analyze", "analysis.npz", "--picture", "picture.png")
    analysis = np.load("analysis.npz")
    assert found["images"] == 2
    right = sorted(analysis["label"] == analysis["prediction"])
    assert right[-1]  # that of all classes
    assert found["top1"] == np.mean(right)
    assert run(capsys, "--data", "tfds:tiny_real", "--compare")[0] == 2
