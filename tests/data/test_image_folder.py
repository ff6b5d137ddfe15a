import re

import numpy as np
import pytest
from PIL import Image

from keras_adavit.data.augment import Augment
from keras_adavit.data.image_folder import ImageFolder
from keras_adavit.data.pipeline import denormalize
from keras_adavit.errors import InputError

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
    for batch_size in (1, 2):
        splits = load(tmp_path, batch_size)
        images, labels = epoch(splits.validation)
        reds = np.round(255 * denormalize(images, splits.mean, splits.std)[:, 0, 0, 0])
        np.testing.assert_array_equal(reds, [*range(10, 230, 20), *range(0, 240, 20)])  # class by class, in order
        np.testing.assert_array_equal(labels, [0] * 11 + [1] * 12)


def test_epochs_are_shuffled_and_the_seed_repeats_them(folder):
    def orders(seed):
        train = load(folder, 18, seed, augment=Augment(crop_scale=(1.0, 1.0))).train
        return [tuple(epoch(train)[1]) for _ in range(2)]

    first = orders(0)
    assert first == orders(0)
    assert len({*first, *orders(1)}) == 4
    assert all(np.bincount(order).tolist() == [6, 6, 6] for order in first)


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
    with raises("`path` must hold a folder `train`. Received: path=", "with nothing"):
        load(tmp_path)


def test_no_train_split(folder):
    (folder / "train").rename(folder / "training")
    with raises("`path` must hold a folder `train`. Received: path=", "with 'training', 'val'"):
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
    np.testing.assert_array_equal(epoch(splits.validation)[1], [0, 0, 1, 1, 1, 2, 2, 2])


def test_class_without_good_images(folder):
    for file in (folder / "val" / "elk").iterdir():
        break_file(file, "text")
    with raises(f"Every class of `{folder / 'val'}` must have an image", "Received: none in 'elk'"):
        load(folder, on_bad_image="skip")


def test_check_can_be_switched_off(folder):
    break_file(folder / "train/cat/0.jpg", "text")
    assert load(folder, check_images=False).train_examples == 18


def test_option_errors():
    with raises("`on_bad_image` must be 'error' or 'skip'. Received: on_bad_image='ignore'"):
        ImageFolder(on_bad_image="ignore")
    with raises("`on_bad_image='skip'` needs `check_images=True`. Received: check_images=False"):
        ImageFolder(on_bad_image="skip", check_images=False)
    with raises("`image_size` must be"):
        ImageFolder(image_size=-1)
