import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adavit.data.augment import Augment, erase, mix, rand_augment
from keras_adavit.errors import InputError

SIZE = 24


def eagerly(function, *inputs):
    return function(*inputs)


def in_pipeline(function, *inputs):
    return next(iter(tf.data.Dataset.from_tensors(inputs).map(function)))


both_ways = pytest.mark.parametrize("run", [eagerly, in_pipeline])


@pytest.fixture
def photo():
    rows, columns = np.mgrid[:SIZE, :SIZE] * 10
    return tf.constant(np.stack([rows, columns, rows // 2 + columns // 2], -1), tf.uint8)


@both_ways
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_rand_augment(run, policy, photo):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        augment = rand_augment(0.5, seed=0)
        assert keras.config.dtype_policy().name == policy
    finally:
        keras.config.set_dtype_policy(before)
    out = run(lambda images: tf.map_fn(augment, images), tf.stack([photo] * 16)).numpy()
    assert (out.shape, out.dtype) == ((16, SIZE, SIZE, 3), "uint8")
    changed = [not np.array_equal(each, photo) for each in out]
    assert sum(changed) >= 8
    assert len(np.unique(out, axis=0)) >= 8


@both_ways
def test_erase_makes_one_rectangle_noise(run):
    images = tf.fill((200, SIZE, SIZE, 3), 9.0)
    out = run(lambda images: erase(images, (1, 2), 0.5), images).numpy()
    erased = (out != 9).all(-1)
    np.testing.assert_array_equal(erased, (out != 9).any(-1))
    chosen = erased.any((1, 2))
    assert 70 <= chosen.sum() <= 130
    for each in erased[chosen]:
        rows, columns = each.any(1), each.any(0)
        np.testing.assert_array_equal(each, rows[:, None] & columns)
        assert all(np.ptp(np.flatnonzero(side)) + 1 == side.sum() for side in (rows, columns))
    shares = erased[chosen].mean((1, 2))
    assert shares.max() < 0.4
    assert 0.1 < shares.mean() < 0.25
    assert abs(out[erased].mean()) < 0.2
    assert 0.8 < out[erased].std() < 1.2


def test_erase_all_or_none():
    images = tf.fill((20, SIZE, SIZE, 1), 9.0)
    assert ((erase(images, (1, 2), 1.0) != 9).numpy().any((1, 2, 3))).all()
    np.testing.assert_array_equal(erase(images, (1, 2), 0.0), images)


def mixed(run, mixup, cutmix, seed=(1, 2)):
    """Images that are their class' number everywhere: their mean must be that of their mixed labels."""
    classes = tf.range(32)
    images = tf.ones((1, SIZE, SIZE, 3)) * tf.cast(classes, tf.float32)[:, None, None, None]
    images, labels = run(lambda images, labels: mix(images, labels, seed, mixup, cutmix, 40), images, classes)
    images, labels = images.numpy(), labels.numpy()
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == (
        (32, SIZE, SIZE, 3), "float32", (32, 40), "float32",
    )  # fmt: skip
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(images.mean((1, 2, 3)), labels @ np.arange(40), atol=1e-3)
    own = labels[np.arange(32), np.arange(32)]
    assert own.min() < 0.4
    assert own.max() > 0.6
    return images


@both_ways
def test_mixup_blends_whole_images(run):
    assert (np.ptp(mixed(run, 0.8, 0.0), axis=(1, 2, 3)) == 0).all()


@both_ways
def test_cutmix_pastes_a_rectangle(run):
    images = mixed(run, 0.0, 1.0)
    assert all(len(np.unique(image)) <= 2 for image in images)
    assert np.mean(np.ptp(images, axis=(1, 2, 3)) > 0) > 0.7
    np.testing.assert_array_equal(images, np.round(images))


@both_ways
def test_both_take_turns(run):
    blended = (np.ptp(mixed(run, 0.8, 1.0), axis=(1, 2, 3)) == 0).sum()
    assert 6 <= blended <= 26


def test_mix_follows_the_seed():
    np.testing.assert_array_equal(mixed(eagerly, 0.8, 1.0), mixed(eagerly, 0.8, 1.0))
    assert not np.array_equal(mixed(eagerly, 0.8, 1.0), mixed(eagerly, 0.8, 1.0, seed=(3, 4)))


def test_a_tiny_alpha_leaves_no_gaps():
    images, labels = mix(tf.ones((64, 8, 8, 3)), tf.zeros(64, tf.int32), (1, 2), 1e-3, 1e-3, 2)
    assert np.isfinite(images).all()
    np.testing.assert_array_equal(labels, [[1.0, 0.0]] * 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 0.4)),
        ("crop_scale", (0.5, 1.1)),
        ("crop_scale", (0.5,)),
        ("crop_ratio", (0.0, 1.0)),
        ("crop_ratio", (2.0, 1.0)),
        ("crop_ratio", (1.0, 1.0, 1.0)),
        ("randaugment", 1.5),
        ("randaugment", -0.1),
        ("erasing", 1.5),
        ("erasing", float("nan")),
        ("mixup", -1.0),
        ("cutmix", float("inf")),
    ],
)
def test_option_errors(name, value):
    with pytest.raises(InputError, match=rf"^`{name}` must be .*\. Received: "):
        Augment(**{name: value})
