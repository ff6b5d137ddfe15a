"""The breakdown of an evaluation, in Python and from evaluate.py."""

import keras
import numpy as np
import pytest

import keras_adavit as ka
from keras_adavit.commands.main import main
from keras_adavit.evaluation import analysis


def outputs_of(predictions, macs):
    count = len(predictions)
    rng = np.random.default_rng(count)
    return {
        "logits": np.eye(4, dtype="float32")[predictions],
        "macs": np.float32(macs),
        "token_keep": rng.integers(0, 2, (count, 2, 5)).astype("float32"),
        "head_keep": np.ones((count, 2, 3), "float32"),
        "block_keep": np.ones((count, 2, 2), "float32"),
    }


@pytest.fixture
def breakdown():
    breakdown = analysis.Breakdown()
    breakdown.add(np.int32([0, 3, 3]), outputs_of([0, 3, 0], [30.0, 10.0, 20.0]))
    breakdown.add(np.int32([1]), outputs_of([1], [5.0]))
    return breakdown


def test_classes_come_from_the_fewest_macs_to_the_most(breakdown):
    assert breakdown.by_class() == [
        analysis.ClassFigures(label=1, images=1, macs=5.0, top1=1.0),
        analysis.ClassFigures(label=3, images=2, macs=15.0, top1=0.5),
        analysis.ClassFigures(label=0, images=1, macs=30.0, top1=1.0),
    ]


def test_the_file_has_every_image_once(breakdown, tmp_path):
    breakdown.save(tmp_path / "out.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]
    with np.load(tmp_path / "out.npz") as found:
        assert found["label"].tolist() == [0, 3, 3, 1]
        assert found["prediction"].tolist() == [0, 3, 0, 1]
        assert found["macs"].tolist() == [30.0, 10.0, 20.0, 5.0]
        assert {key: found[key].shape for key in ("token_keep", "head_keep", "block_keep")} == {
            "token_keep": (4, 2, 5),
            "head_keep": (4, 2, 3),
            "block_keep": (4, 2, 2),
        }
        assert found["token_keep"].dtype == bool


def test_a_write_that_fails_leaves_what_was_there(breakdown, tmp_path, monkeypatch):
    path = tmp_path / "out.npz"
    path.write_bytes(b"earlier")

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(ka.InputError, match=r"out\.npz cannot be written\. Received: no space left on device"):
        breakdown.save(path)
    assert [found.name for found in tmp_path.iterdir()] == ["out.npz"]
    assert path.read_bytes() == b"earlier"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of three classes with three images each, and a gated model for it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(3):
            place = tmp_path / "photos" / split / f"animal_{label}"
            place.mkdir(parents=True)
            for index in range(3):
                keras.utils.save_img(place / f"{index}.png", rng.integers(0, 255, (16, 16, 3)), scale=False)
    backbone = ka.AdaViTBackbone(image_size=16, patch_size=4, width=12, depth=2, num_heads=3, gates=ka.GateConfig())
    ka.AdaViTClassifier(backbone, num_classes=3).save("model.keras")
    return tmp_path


def run(capsys, *arguments):
    """Exit code and what was printed, in one line."""
    capsys.readouterr()
    try:
        code = main(["evaluate", "model.keras", "--data", "photos", *arguments])
    except SystemExit as stop:  # tyro, for arguments that it does not know
        code = stop.code
    out, err = capsys.readouterr()
    return code, " ".join((out + err).split())


def test_evaluate_under_a_random_policy_with_a_breakdown(folder, capsys):
    arguments = ("--policy", "random", "--token-usage", "0.5", "--block-usage", "0.5", "--batch-size", "4")
    code, text = run(capsys, *arguments, "--analyze", "out.npz")
    assert code == 0, text
    assert "MACs by class" in text
    assert "animal_2" in text
    with np.load(folder / "out.npz") as found:
        assert sorted(found["label"].tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert 0.2 < found["token_keep"][:, :, 1:].mean() < 0.8
        assert found["block_keep"][:, 0].all()
        assert not found["block_keep"][:, 1].all()
        assert found["head_keep"].all()
        assert len(np.unique(found["macs"])) > 1


def test_evaluate_with_open_gates(folder, capsys):
    code, text = run(capsys, "--policy", "open")
    assert code == 0, text
    assert "MACs by class" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "chance"], "invalid choice"),
        (["--policy", "random"], "`--policy random` needs one of `--token-usage`"),
        (
            ["--policy", "random", "--head-usage", "1.5"],
            "`head_usage` must be a number in [0, 1] or None",
        ),
        (["--token-usage", "0.5"], "`--token-usage` needs `--policy random` or `--policy topk`. Received"),
        (["--policy", "merge", "--token-usage", "0.5"], "`--policy topk`. Received: --policy merge"),
        (["--policy", "topk", "--merged", "3"], "`--merged` needs `--policy merge`. Received: --policy"),
        (
            ["--policy", "topk", "--head-usage", "0.5"],
            "`--head-usage` needs `--policy random`. Received: --policy topk",
        ),
        (
            ["--policy", "topk", "--token-usage", "0"],
            "`--token-usage` must be above 0 with `--policy topk`. Received: 0",
        ),
        (["--policy", "merge", "--merged", "-1"], "`merged` must be a whole number from 0"),
        (["--policy", "topk", "--macs", "0.5"], "`--macs` prints the learned policy"),
        (["--policy", "merge", "--time"], "`--time` measures the learned policy"),
        (["--policy", "open", "--seed", "1"], "`--seed` needs `--policy random`. Received: --policy open"),
        (
            ["--policy", "random", "--token-usage", "0.5", "--seed", "-1"],
            "`seed` must be a whole number",
        ),
        (["--analyze", "out.txt"], "`--analyze` must be a file ending in .npz. Received: out.txt"),
        (["--analyze", f"{'x' * 300}.npz"], "x.npz cannot be written. Received: File name too long"),
        (["--analyze", "no/such/out.npz"], "`--analyze` must be in an existing folder. Received: no/such/out.npz"),
    ],
)
def test_wrong_arguments_are_met_with_a_sentence_and_code_2(arguments, message, folder, capsys):
    before = sorted(folder.rglob("*"))
    code, text = run(capsys, *arguments)
    assert (code, message in text) == (2, True), text
    assert sorted(folder.rglob("*")) == before


def test_help_lists_the_usages(capsys, folder):
    code, text = run(capsys, "--help")
    assert code == 0
    for option in ("--policy", "--token-usage", "--head-usage", "--block-usage", "--merged", "--analyze"):
        assert option in text
