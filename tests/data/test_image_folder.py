import io
import os
import re
import struct
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_adavit.data.augment import Augment
from keras_adavit.data.image_folder import ImageFolder, name_bad_images
from keras_adavit.data.pipeline import denormalize, from_epoch
from keras_adavit.data.preprocessing import Preprocessing
from keras_adavit.errors import InputError, printable

COLORS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "elk": (30, 30, 200)}


def write(path, color=(9, 9, 9), size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def folder(tmp_path):
    """Six training and three validation images a class, one colour a class, in mixed formats and sizes."""
    for name, color in COLORS.items():
        for i in range(6):
            write(tmp_path / "train" / name / f"{i}{('.jpg', '.png', '.JPEG')[i % 3]}", color, (20 + i, 16))
        for i in range(3):
            write(tmp_path / "val" / name / f"{i}.png", color)
    return tmp_path


def load(path, batch_size=4, seed=0, **options):
    return ImageFolder(str(path), image_size=8, **options).load(batch_size, seed)


def epoch(dataset):
    batches = [(images.numpy(), labels.numpy()) for images, labels in dataset]
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])


def raises(*parts):
    """Expects an `InputError` of one sentence that holds each of the parts, in order."""
    return pytest.raises(InputError, match=".*".join(map(re.escape, parts)))


def test_splits(folder):
    splits = load(folder)
    assert splits.class_names == ("cat", "dog", "elk")
    assert (splits.train_examples, splits.validation_examples, splits.skipped) == (18, 9, ())
    assert splits.preprocessing == Preprocessing()
    assert load(folder, crop_fraction=0.5).preprocessing == Preprocessing(crop_fraction=0.5)
    for dataset, sizes in ((splits.train, [4] * 4), (splits.validation, [4, 4, 1])):
        batches = list(dataset)
        assert [len(labels) for _, labels in batches] == sizes
        for images, labels in batches:
            assert (images.shape[1:], images.dtype.name, labels.dtype.name) == ((8, 8, 3), "float32", "int32")
            colors = np.float32(list(COLORS.values()))[labels.numpy()] / 255
            pixels = denormalize(images, splits.mean, splits.std)
            np.testing.assert_allclose(pixels, np.broadcast_to(colors[:, None, None], pixels.shape), atol=0.02)


def test_every_validation_image_once(tmp_path):
    for split, count in (("train", 2), ("val", 23)):
        for i in range(count):
            write(tmp_path / split / ("odd", "even")[i % 2] / f"{i:02}.png", (10 * i, 0, 0))
    orders = set()
    for batch_size in (1, 2):
        splits = load(tmp_path, batch_size, seed=batch_size)
        images, labels = epoch(splits.validation)
        reds = np.round(255 * denormalize(images, splits.mean, splits.std)[:, 0, 0, 0]).astype(int)
        np.testing.assert_array_equal(np.sort(reds), range(0, 230, 10))
        np.testing.assert_array_equal(labels, reds // 10 % 2 == 0)  # even numbers are in the folder "odd"
        assert set(labels[:8]) == {0, 1}  # the classes are mixed
        orders.add(tuple(reds))
    assert len(orders) == 1


def test_calibration_images_are_training_images_as_evaluation_sees_them(tmp_path):
    """Not mirrored, not mixed: each once, whatever the augmentation, in an order that is not that of the files."""
    for i in range(12):
        image = np.zeros((16, 16, 3), "uint8")
        image[:, :8] = 20 * i  # the left half
        path = tmp_path / "train" / ("odd", "even")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        write(tmp_path / "val" / ("odd", "even")[i % 2] / f"{i}.png")
    augment = Augment(crop_scale=(0.1, 0.2), mixup=1.0, erasing=1.0)
    first, again = (load(tmp_path, 5, crop_fraction=1.0, augment=augment).calibration for _ in range(2))
    assert [len(labels) for _, labels in first] == [5, 5, 2]
    images, labels = epoch(first)
    splits = load(tmp_path)
    pixels = np.round(255 * denormalize(images, splits.mean, splits.std)[..., 0])
    numbers = pixels[:, 0, 0] / 20
    assert sorted(numbers) == list(range(12))
    assert numbers.tolist() != sorted(numbers)
    assert (pixels[:, :, -1] == 0).all()
    np.testing.assert_array_equal(labels, 1 - numbers % 2)  # 0, 2, ... are in "odd", the second class
    np.testing.assert_array_equal(epoch(again)[0], images)


def test_epochs_are_shuffled_and_the_seed_repeats_them(folder):
    def orders(seed):
        train = load(folder, 18, seed, augment=Augment(crop_scale=(1.0, 1.0))).train
        return [tuple(epoch(train)[1]) for _ in range(2)]

    first = orders(0)
    assert first == orders(0)
    assert len({*first, *orders(1)}) == 4
    assert all(np.bincount(order).tolist() == [6, 6, 6] for order in first)


def test_a_training_that_starts_in_the_middle_sees_the_same_batches(folder):
    def batches(epoch, batch, count):
        found = from_epoch(load(folder, augment=Augment(mixup=0.5, erasing=0.5)), epoch, batch).take(count)
        return [(images.numpy(), labels.numpy()) for images, labels in found]

    length = len(load(folder).train)
    whole = batches(0, 0, 3 * length)
    assert not np.array_equal(whole[0][0], whole[length][0])
    for start in (1, length, length + 1):
        for (images, labels), (other, others) in zip(batches(*divmod(start, length), 2), whole[start:], strict=False):
            np.testing.assert_array_equal(images, other)
            np.testing.assert_array_equal(labels, others)
    short = list(from_epoch(load(folder), 0, 0, batches=1).take(2))
    np.testing.assert_array_equal(short[1][1], next(iter(from_epoch(load(folder), 1)))[1])


@pytest.mark.parametrize("name", ["validation", "test"])
def test_other_names_of_the_validation_split(folder, name):
    (folder / "val").rename(folder / name)
    assert load(folder).validation_examples == 9


def test_val_comes_before_test(folder):
    write(folder / "test" / "cat" / "0.png")
    assert load(folder).validation_examples == 9


def test_hidden_and_other_files_are_passed_over(folder):
    write(folder / "train" / "cat" / ".hidden.png")
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "README").write_text("no class")
    assert load(folder).train_examples == 18


def test_content_decides_not_the_name(folder):
    Image.new("RGB", (20, 16), COLORS["cat"]).save(folder / "val" / "cat" / "3.jpg", "PNG")
    Image.new("CMYK", (20, 16)).save(folder / "val" / "cat" / "4.jpg")
    Image.new("LA", (20, 16)).save(folder / "val" / "cat" / "5.png")
    splits = load(folder)
    assert len(epoch(splits.validation)[1]) == splits.validation_examples == 12


@pytest.mark.parametrize("path", ["", "no/such/folder", __file__])
def test_path_that_is_no_folder(path):
    with raises("`path` must be a folder", f"Received: path={path!r}"):
        ImageFolder(path).load(1, 0)


def test_empty_folder(tmp_path):
    with raises("`path` must hold a folder `train`; ", "Received: path=", "with nothing"):
        load(tmp_path)


def test_no_train_split(folder):
    (folder / "train").rename(folder / "training")
    with raises("`path` must hold a folder `train`; ", "Received: path=", "with 'training', 'val'"):
        load(folder)


def test_no_validation_split(folder):
    (folder / "val").rename(folder / "dev")
    with raises("`path` must hold a folder `val`, `validation` or `test`. Received: path=", "with 'dev', 'train'"):
        load(folder)


def test_split_without_classes(folder):
    (folder / "test").mkdir()
    (folder / "val").rename(folder / "dev")
    write(folder / "test" / "0.png")
    with raises(f"`{folder / 'test'}` must hold one folder for each class. Received: no folder"):
        load(folder)


def test_class_without_images(folder):
    for file in (folder / "val" / "dog").iterdir():
        file.rename(file.with_suffix(".txt"))
    with raises(f"class folder of `{folder / 'val'}` must hold JPEG or PNG files. Received: none in 'dog'"):
        load(folder)


def test_classes_that_differ(folder):
    (folder / "val" / "cat").rename(folder / "val" / "cow")
    for i in range(5):
        write(folder / "train" / f"z{i}" / "0.png")
    with raises("must hold the same classes. Received: only in `train`: 'cat', 'z0', 'z1' and 3 more; ", "val`: 'cow'"):
        load(folder)


def break_file(path, how):
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"no image"}[how])
    return str(path)


@pytest.mark.parametrize("how", ["truncated", "empty", "text"])
@pytest.mark.parametrize("name", ["train/cat/0.jpg", "train/cat/1.png", "val/elk/2.png"])
def test_bad_image_is_named(folder, name, how):
    bad = break_file(folder / name, how)
    with raises("Every image must be a sound", f"Received: '{bad}'"):
        load(folder)


def test_many_bad_images_are_counted(folder):
    bad = [break_file(file, "text") for file in sorted((folder / "train" / "dog").iterdir())]
    with raises(f"Received: '{bad[0]}', '{bad[1]}', '{bad[2]}' and 3 more"):
        load(folder)


def test_bad_images_are_skipped_and_listed(folder):
    bad = [break_file(folder / name, "truncated") for name in ("train/cat/0.jpg", "train/dog/1.png", "val/cat/1.png")]
    splits = load(folder, 1, on_bad_image="skip")
    assert splits.skipped == tuple(bad)
    assert (splits.train_examples, splits.validation_examples) == (16, 8)
    np.testing.assert_array_equal(np.bincount(epoch(splits.train)[1]), [5, 5, 6])
    np.testing.assert_array_equal(np.bincount(epoch(splits.validation)[1]), [2, 3, 3])


def test_class_without_good_images(folder):
    for file in (folder / "val" / "elk").iterdir():
        break_file(file, "text")
    with raises(f"Every class of `{folder / 'val'}` must have an image", "Received: none in 'elk'"):
        load(folder, on_bad_image="skip")


def test_check_can_be_switched_off(folder):
    break_file(folder / "train/cat/0.jpg", "text")
    assert load(folder, check_images=False).train_examples == 18


def test_option_errors():
    with raises("`on_bad_image` must be one of 'error', 'skip'. Received: on_bad_image='ignore'"):
        ImageFolder(on_bad_image="ignore")
    with raises("`on_bad_image='skip'` needs `check_images=True`. Received: check_images=False"):
        ImageFolder(on_bad_image="skip", check_images=False)
    with raises("`image_size` must be"):
        ImageFolder(image_size=-1)


def test_names_that_are_no_text_are_read(folder):
    """Bytes that are no UTF-8, as old archives have them, in a file's name and in a class's."""
    latin = os.fsdecode("caf\u00e9".encode("latin-1"))
    for split in ("train", "val"):
        (folder / split / "cat" / "0.png").unlink(missing_ok=True)
        write(folder / split / "cat" / f"{latin}.png", COLORS["cat"])
        (folder / split / "dog").rename(folder / split / latin)
    splits = load(folder)
    assert splits.class_names == (r"caf\udce9", "cat", "elk")
    assert len(epoch(splits.validation)[1]) == 9
    bad = break_file(folder / "val" / "cat" / f"{latin}.png", "text")
    with raises("Every image must be a sound", r"caf\udce9.png'") as error:
        load(folder)
    assert str(error.value).isprintable()
    splits = load(folder, on_bad_image="skip")
    assert splits.skipped == (printable(bad),)


def test_image_that_fails_while_it_is_read_is_named(folder):
    splits = load(folder, check_images=False)
    bad = break_file(folder / "val" / "dog" / "1.png", "truncated")
    with raises("Every image must be a sound", f"Received: '{bad}'"), name_bad_images(splits):
        list(splits.validation)
    write(Path(bad), COLORS["dog"])
    (folder / "val" / "cat" / "2.png").unlink()
    with raises(f"Received: '{folder / 'val' / 'cat' / '2.png'}'"), name_bad_images(splits):
        list(splits.validation)


def test_other_errors_while_images_are_read_stay(folder):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"), name_bad_images(load(folder)):
        raise tf.errors.InvalidArgumentError(None, None, "mine")


@pytest.mark.parametrize("backend_fit", [False, True])
def test_undecodable_image_in_fit(folder, backend_fit):
    splits = load(folder, check_images=False, augment=Augment(crop_scale=(1.0, 1.0)))
    bad = break_file(folder / "train" / "elk" / "1.png", "text")
    model = keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=not backend_fit)
    with raises(f"Received: '{bad}'"), name_bad_images(splits):
        model.fit(splits.train, epochs=3, verbose=0, shuffle=False)


def test_path_with_an_unknown_user():
    with raises("`path` must be a folder", "Received: path='~nobody_of_this_name/x'"):
        ImageFolder("~nobody_of_this_name/x").load(1, 0)


def test_links(folder):
    """A link that leads nowhere, or to itself, is a bad image; folders and pipes are no images at all."""
    cat = folder / "train" / "cat"
    (cat / "gone.png").symlink_to(cat / "none.png")
    (cat / "loop.png").symlink_to(cat / "loop.png")
    with raises("Every image must be a sound", "gone.png', '", "loop.png'"):
        load(folder)
    (cat / "sub.png").mkdir()
    os.mkfifo(cat / "pipe.png")
    (cat / "linked_pipe.png").symlink_to(cat / "pipe.png")
    (cat / "good.png").symlink_to(cat / "1.png")
    splits = load(folder, on_bad_image="skip")
    assert [Path(path).name for path in splits.skipped] == ["gone.png", "loop.png"]
    assert splits.train_examples == 19


@pytest.mark.parametrize("target", ["none", "owl"])
def test_class_that_is_a_broken_link(folder, target):
    for split in ("train", "val"):
        (folder / split / "owl").symlink_to(folder / split / target)
    with raises(f"Every link in `{folder / 'train'}` must lead to a folder. Received: 'owl'"):
        load(folder)


def test_folder_that_may_not_be_read(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # tests may run as a user to whom no permission is denied
    with raises(f"`{folder / 'train' / 'cat'}` must be a folder that can be read. Received: Permission denied"):
        load(folder)


def png(width, height):
    """A PNG that claims a size and holds nothing of it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("side", [20_000, 65_000, 2**31 - 1])
@pytest.mark.parametrize("make", [png, jpeg])
def test_images_that_claim_to_be_gigantic(make, side, folder):
    path = folder / "val" / "cat" / "0.png"
    path.write_bytes(make(side, side) if make is png else make(min(side, 65_500), min(side, 65_500)))
    with raises(f"Received: '{path}'"):
        load(folder)


def test_images_of_one_pixel(folder):
    for split in ("train", "val"):
        for name, size in (("point", (1, 1)), ("row", (50, 1)), ("column", (1, 50))):
            write(folder / split / "cat" / f"{name}.jpg", COLORS["cat"], size)
    splits = load(folder)
    images, labels = epoch(splits.validation)
    np.testing.assert_allclose(images[labels == 0][0], images[labels == 0][-1], atol=0.1)
    assert len(epoch(splits.train)[1]) == 20
