import numpy as np
import pytest
import tensorflow as tf

from keras_adavit.data.pipeline import Splits, check_batch_size, denormalize, normalize, with_seeds
from keras_adavit.errors import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def test_normalize_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype("uint8")
    images = normalize(pixels, MEAN, STD)
    assert images.dtype == tf.float32
    np.testing.assert_allclose(images, (pixels / 255 - MEAN) / STD, atol=1e-5)
    np.testing.assert_allclose(denormalize(images, MEAN, STD), pixels / 255, atol=1e-6)


def test_denormalize_clips():
    np.testing.assert_array_equal(denormalize(np.array([[-9.0], [9.0]], "float32"), (0.5,), (0.2,)), [[0.0], [1.0]])


def seeds(dataset):
    return [tuple(seed.numpy()) for _, seed in dataset]


def test_seeds_differ_and_repeat():
    first = seeds(with_seeds(tf.data.Dataset.range(50), [3, 0]))
    assert len(set(first)) == 50
    assert seeds(with_seeds(tf.data.Dataset.range(50), [3, 0])) == first
    assert not set(seeds(with_seeds(tf.data.Dataset.range(50), [4, 0]))) & set(first)


def splits_of(batch_size):
    train = tf.data.Dataset.range(10).batch(batch_size, drop_remainder=True)
    return Splits(
        train=train,
        train_epoch=lambda number: train,
        validation=train,
        calibration=train,
        class_names=("a",),
        train_examples=10,
        validation_examples=10,
        mean=(0.0,),
        std=(1.0,),
    )


def test_a_batch_that_the_split_cannot_fill_is_refused():
    check_batch_size(splits_of(10), 10)
    with pytest.raises(InputError, match=r"`batch_size` .* training images, 10\. Received: batch_size=11$"):
        check_batch_size(splits_of(11), 11)
