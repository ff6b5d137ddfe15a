import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_adavit.commands.main import main
from keras_adavit.data.image_folder import ImageFolder, name_bad_images
from keras_adavit.data.pipeline import denormalize, from_epoch
from keras_adavit.data.shards import Shards
from keras_adavit.errors import InputError

NAMES = ("cat", "dog", "elk")
COUNTS = {"train": 40, "val": 21}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of JPEG files whose pixels are their own number, a third of them of each class."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in COUNTS.items():
        for number in range(count):
            path = root / split / NAMES[number % 3] / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 16), (6 * number,) * 3).save(path, quality=95)
    return root


@pytest.fixture(scope="module")
def written(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "out"
    assert main(["shards", str(photos), str(out)]) == 0
    return out


@pytest.fixture
def copy(written, tmp_path):
    """Shards that a test may damage."""
    for file in written.iterdir():
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "copy"


def load(path, batch_size=4, seed=0, **options):
    return Shards(path=str(path), image_size=8, **options).load(batch_size, seed)


def raises(*parts):
    return pytest.raises(InputError, match=".*".join(map(re.escape, parts)))


def numbers(splits, dataset):
    """The number of each image, and its label."""
    images, labels = zip(*dataset.unbatch().as_numpy_iterator(), strict=True)
    pixels = denormalize(np.stack(images), splits.mean, splits.std)
    return np.round(255 * pixels.mean((1, 2, 3)) / 6).astype(int).tolist(), np.array(labels).tolist()


def records(folder, split):
    """What is in the shards of a split: file name to bytes and label."""
    found = {}
    for path in sorted(folder.glob(f"{split}-*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(path)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            name = os.fsdecode(features["file"].bytes_list.value[0])
            assert name not in found
            found[name] = features["image"].bytes_list.value[0], features["label"].int64_list.value[0]
    return found


def test_every_image_once_bit_for_bit(photos, written):
    for split, folder in (("train", "train"), ("validation", "val")):
        expected = {
            str(path.relative_to(photos)): (path.read_bytes(), NAMES.index(path.parent.name))
            for path in (photos / folder).rglob("*.jpg")
        }
        assert records(written, split) == expected
        sizes = [sum(1 for _ in tf.data.TFRecordDataset(str(path))) for path in written.glob(f"{split}-*")]
        assert len(sizes) == 16
        assert max(sizes) - min(sizes) <= 1


def test_features_are_in_one_order(written):
    for path in written.glob("*.tfrecord"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            assert record.index(b"file") < record.index(b"image") < record.index(b"label")


def test_splits_are_those_of_the_folder(photos, written):
    splits, others = load(written), ImageFolder(path=str(photos), image_size=8).load(4, 0)
    assert splits.class_names == others.class_names == NAMES
    assert (splits.train_examples, splits.validation_examples) == (40, 21)
    for one, other in zip(splits.validation, others.validation, strict=True):
        for part, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, same)
    assert len(splits.validation) == 6


def test_epochs_are_shuffled_and_the_seed_repeats_them(written):
    def order(seed, epoch):
        splits = load(written, seed=seed)
        found, labels = numbers(splits, splits.train_epoch(tf.constant(epoch, "int64")))
        assert labels == [number % 3 for number in found]
        assert len(set(found)) == len(found) == 32  # 16 files of two images at least
        return tuple(found)

    orders = {order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert order(1, 1) in orders


def test_any_number_of_threads(written):
    def batches(threads):
        splits, options = load(written), tf.data.Options()
        options.threading.private_threadpool_size = threads
        return list(splits.train_epoch(tf.constant(0, "int64")).with_options(options).as_numpy_iterator())

    for one, other in zip(batches(1), batches(8), strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_a_training_goes_on_in_the_middle(written):
    splits = load(written)
    whole = list(from_epoch(splits, 0).take(20).as_numpy_iterator())
    rest = list(from_epoch(splits, 1, batch=3).take(3).as_numpy_iterator())
    for one, other in zip(whole[11:14], rest, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert len(splits.train) == 8


def test_finished_shards_are_checked(photos, written, capsys):
    before = {path: path.stat().st_mtime_ns for path in written.iterdir() if path.name != ".lock"}
    assert main(["shards", str(photos), str(written)]) == 0
    assert capsys.readouterr().out == f"All 32 files in {written} are as they were written\n"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def flip(path, where):
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


def second_record(path):
    """Where the second record of a file begins."""
    return 16 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize("part", [0, 9, 12, 200, -1])  # of a record: length, its checksum, data, data, their checksum
def test_a_flipped_byte_is_named(part, photos, copy, capsys):
    path = copy / "train-00003-of-00016.tfrecord"
    last = sum(1 for _ in tf.data.TFRecordDataset(str(path))) - 1
    flip(path, second_record(path) + part if part >= 0 else part)
    assert main(["shards", str(photos), str(copy)]) == 2
    message = f"Received: '{path}', record {1 if part >= 0 else last} is damaged"
    assert capsys.readouterr().err.strip().endswith(message)
    splits = load(copy)
    with raises(message), name_bad_images(splits):
        list(splits.train)
    path.unlink()
    assert main(["shards", str(photos), str(copy)]) == 0
    assert capsys.readouterr().out == f"Wrote 61 images to 32 files in {copy}, 31 of which were there\n"


def test_other_damage(photos, copy, capsys):
    path = copy / "validation-00001-of-00016.tfrecord"
    good = path.read_bytes()
    for data in (good[:-1], good + b"x", b""):  # TensorFlow's own reader notices only the first
        path.write_bytes(data)
        with raises(f"Received: '{path}', of {len(data)} bytes instead of {len(good)}"):
            load(copy)
    path.unlink()
    with raises(f"Received: '{path}', which is missing"):
        load(copy)


def test_records_that_are_whole_but_others(photos, copy, capsys):
    path = copy / "train-00001-of-00016.tfrecord"
    others = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in reversed(others):
            writer.write(record)
    assert main(["shards", str(photos), str(copy)]) == 2
    assert f"Received: '{path}', its records are whole, but others\n" in capsys.readouterr().err


def test_a_record_that_is_no_image(copy):
    path = copy / "validation-00000-of-00016.tfrecord"
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"no image"])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[0])),
    }
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    index = copy / "shards.json"
    entry = re.compile(rf'("{path.name}",\s+"images": )\d+(,\s+"bytes": )\d+')
    index.write_text(entry.sub(rf"\g<1>1\g<2>{path.stat().st_size}", index.read_text()))
    splits = load(copy)
    with raises(f"'{path}', record 0 holds no image"), name_bad_images(splits):
        list(splits.validation)


KILLED = """
import os, signal, sys
from keras_adavit.commands.main import main
from keras_adavit.data import shard_files

to_record, seen = shard_files.to_record, []

def kill(*arguments):
    seen.append(arguments)
    if len(seen) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return to_record(*arguments)

shard_files.to_record = kill
main(["shards", sys.argv[1], sys.argv[2], "--workers", "1"])
"""


@pytest.mark.slow
def test_killed_while_writing(photos, written, tmp_path, capsys):
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, str(photos), str(out), "20"]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    assert 5 < len(there) < 16
    assert list(out.glob(".unfinished-*"))
    with raises(f"Received: path='{out}', which is not finished"):
        load(out)
    assert main(["shards", str(photos), str(out)]) == 0
    assert capsys.readouterr().out == f"Wrote 61 images to 32 files in {out}, {len(there)} of which were there\n"
    assert {name: (out / name).stat().st_mtime_ns for name in there} == there
    assert {p.name for p in out.iterdir()} == {p.name for p in written.iterdir()}
    for path in written.glob("*.tfrecord"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_killed_at_the_very_end(photos, copy, capsys):
    plan = json.loads((copy / "shards.json").read_text())["plan"]
    (copy / "unfinished.json").write_text(json.dumps({"plan": plan}))
    assert main(["shards", str(photos), str(copy)]) == 0
    assert capsys.readouterr().out == f"Wrote 61 images to 32 files in {copy}, 32 of which were there\n"
    assert len(load(copy).train) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a JSON file that can be read"),
        ("[]", "must hold a JSON object"),
        ("{}", "must be as `keras-adavit shards` wrote it"),
        ('{"class_names": [], "train": [{}], "validation": [], "plan": ""}', "must be as `keras-adavit shards`"),
    ],
)
def test_damaged_index(content, message, copy):
    (copy / "shards.json").write_text(content)
    with raises(f"{copy / 'shards.json'} {message}"):
        load(copy)


@pytest.mark.parametrize("path", ["", "none", os.devnull])
def test_no_shards(path):
    with raises("`path` must be a folder of shards, with shards.json"):
        load(path)


def test_wrong_folders(photos, written, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    empty = tmp_path / "empty"
    (empty / "train" / "cat").mkdir(parents=True)
    (empty / "val" / "cat").mkdir(parents=True)
    for folder, out, message in (
        (photos, file, f"error: The shards must go into a folder. Received: {file}, a file\n"),
        (photos, photos / "shards", "error: The shards must go outside of the folder of the images. Received: "),
        (photos, foreign, f"must be new, empty or of the same images. Received: {foreign} with 'thesis.tex'\n"),
        (tmp_path / "none", tmp_path / "out", "error: `path` must be a folder with the folders `train` and `val`."),
        (empty, tmp_path / "out", "must hold JPEG or PNG files. Received: none in 'cat'\n"),
    ):
        assert main(["shards", str(folder), str(out)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert [path.name for path in foreign.iterdir() if path.name != ".lock"] == ["thesis.tex"]
    assert main(["shards", str(photos), str(written), "--seed", "1"]) == 2
    assert "with shards of other images, or of the same before they were changed" in capsys.readouterr().err


def test_no_room(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=9))
    assert main(["shards", str(photos), str(tmp_path / "out")]) == 2
    assert re.search(r"must have room for \S+ GB\. Received: .*out with 9e-09 GB", capsys.readouterr().err)


def test_a_disk_that_fills_up(photos, tmp_path, capsys, monkeypatch):
    writer = tf.io.TFRecordWriter
    monkeypatch.setattr(tf.io, "TFRecordWriter", lambda path: writer("/dev/full"))
    assert main(["shards", str(photos), str(tmp_path / "out")]) == 2
    assert re.search(r"train-\S+ cannot be written\. Received: No space left on device$", capsys.readouterr().err)
    monkeypatch.undo()
    assert main(["shards", str(photos), str(tmp_path / "out")]) == 0


def test_bad_images_and_a_split(tmp_path, capsys):
    for number in range(8):
        path = tmp_path / "photos" / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    path.write_bytes(b"no image")
    command = ["shards", str(tmp_path / "photos"), str(tmp_path / "out"), "--validation-share", "0.3"]
    assert main(command) == 2
    assert f"Received: '{path}'" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0
    assert "Wrote 7 images to 7 files" in capsys.readouterr().out
    splits = load(tmp_path / "out", batch_size=2)
    assert (splits.train_examples, splits.validation_examples) == (5, 2)
    assert splits.class_names == ("cat",)
