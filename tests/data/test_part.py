import numpy as np
import pytest
import tensorflow as tf

from keras_adavit.data import Digits, ImageFolder
from keras_adavit.data.augment import Augment
from keras_adavit.data.part import Part


def first_epoch(source, part=None):
    splits = source.load(4, 3) if part is None else source.load(4, 3, part)
    return [(images.numpy(), labels.numpy()) for images, labels in splits.train_epoch(tf.constant(0, tf.int64))]


@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_parts_are_the_batches_cut_in_two(kind, tmp_path):
    if kind == "digits":
        source = Digits(image_size=16, min_digit=12, max_digit=14)
    else:
        random = np.random.default_rng(0)
        for index in range(11):  # two batches, and three images more, of which no part gets any
            path = tmp_path / ("val" if index == 10 else "train") / "cats" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(random.integers(0, 256, (9, 9, 3), "uint8")).numpy())
        source = ImageFolder(path=str(tmp_path), image_size=8, augment=Augment(randaugment=9.0))
    whole = first_epoch(source)
    parts = [first_epoch(source, Part(index, 2)) for index in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) > 1
    for batch, first, second in zip(whole, *parts, strict=True):
        for array, *halves in zip(batch, first, second, strict=True):
            np.testing.assert_array_equal(np.concatenate(halves), array)


def test_each_part_erases_and_mixes_what_is_its_own(tmp_path):
    for index in range(5):
        path = tmp_path / ("val" if index == 4 else "train") / "cats" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(np.full((8, 8, 3), 40 * index, "uint8")).numpy())
    options = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    source = ImageFolder(path=str(tmp_path), image_size=8, augment=Augment(erasing=1.0, **options))
    plain = ImageFolder(path=str(tmp_path), image_size=8, augment=Augment(**options))
    erased = []
    for index in range(2):
        part = Part(index, 2)
        ((images, _),), ((before, _),) = first_epoch(source, part), first_epoch(plain, part)
        erased.append(images != before)
    assert all(pixels.any() for pixels in erased)
    assert (erased[0] != erased[1]).any()
