import numpy as np
import pytest
import tensorflow as tf

from keras_adavit.data.augment import Augment, erase, mix
from keras_adavit.errors import InputError

SIZE = 24


def eagerly(function, *inputs):
    return function(*inputs)


def in_pipeline(function, *inputs):
    return next(iter(tf.data.Dataset.from_tensors(inputs).map(function)))


both_ways = pytest.mark.parametrize("run", [eagerly, in_pipeline])


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
    first, second = out[chosen][:2][:, SIZE // 2, SIZE // 2]
    assert not np.array_equal(first, second)  # each has noise of its own


def test_erase_all_or_none():
    images = tf.fill((20, SIZE, SIZE, 1), 9.0)
    assert ((erase(images, (1, 2), 1.0) != 9).numpy().any((1, 2, 3))).all()
    np.testing.assert_array_equal(erase(images, (1, 2), 0.0), images)


def mixed(run, mixup, cutmix, seed=(1, 2)):
    """Images that are their class' number everywhere: their mean must be that of their mixed labels.

    Returns the images and what each keeps of itself, a number for the batch.
    """
    count = 32
    classes = tf.range(count)
    images = tf.ones((1, SIZE, SIZE, 3)) * tf.cast(classes, tf.float32)[:, None, None, None]
    images, labels = run(lambda images, labels: mix(images, labels, seed, mixup, cutmix, 40), images, classes)
    images, labels = images.numpy(), labels.numpy()
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == (
        (32, SIZE, SIZE, 3), "float32", (32, 40), "float32",
    )  # fmt: skip
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(images.mean((1, 2, 3)), labels @ np.arange(40), atol=1e-3)
    own, other = labels[np.arange(count), np.arange(count)], labels[np.arange(count), np.arange(count)[::-1]]
    np.testing.assert_allclose(own, own[0], atol=1e-6)
    np.testing.assert_allclose(other, 1 - own, atol=1e-6)
    return images, own[0]


SEEDS = [(number, 1) for number in range(12)]


def test_mixup_blends_whole_images():
    found = [mixed(eagerly, 0.8, 0.0, seed) for seed in SEEDS]
    assert all((np.ptp(images, axis=(1, 2, 3)) == 0).all() for images, _ in found)
    shares = [share for _, share in found]
    assert min(shares) < 0.4
    assert max(shares) > 0.6


def test_cutmix_pastes_one_rectangle_into_all():
    for images, share in [mixed(eagerly, 0.0, 1.0, seed) for seed in SEEDS]:
        pasted = images[0] == 31
        np.testing.assert_array_equal(images, np.where(pasted, np.arange(32)[::-1, None, None, None], images))
        np.testing.assert_allclose(share, 1 - pasted.mean(), atol=1e-6)
        rows, columns = pasted.any((1, 2)), pasted.any((0, 2))
        np.testing.assert_array_equal(pasted[..., 0], rows[:, None] & columns)


def test_cutmix_may_leave_the_image():
    """The middle of the rectangle is drawn from the whole image, and what lies outside of it is cut off."""
    shares = [1 - mixed(eagerly, 0.0, 1.0, (number, 2))[1] for number in range(60)]
    assert 0.2 < np.mean(shares) < 0.45  # 1/2 if it were kept inside


def test_both_take_turns():
    blended = sum((np.ptp(mixed(eagerly, 0.8, 1.0, seed)[0], axis=(1, 2, 3)) == 0).all() for seed in SEEDS)
    assert 2 <= blended <= 10


@pytest.mark.parametrize("mixing", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mix_is_the_same_in_a_pipeline(mixing):
    for one, other in zip(mixed(eagerly, *mixing), mixed(in_pipeline, *mixing), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_mix_follows_the_seed():
    np.testing.assert_array_equal(mixed(eagerly, 0.8, 1.0)[0], mixed(eagerly, 0.8, 1.0)[0])
    assert not np.array_equal(mixed(eagerly, 0.8, 1.0)[0], mixed(eagerly, 0.8, 1.0, seed=(3, 4))[0])


def test_a_tiny_alpha_leaves_no_gaps():
    images, labels = mix(tf.ones((64, 8, 8, 3)), tf.zeros(64, tf.int32), (1, 2), 1e-3, 1e-3, 2)
    assert np.isfinite(images).all()
    np.testing.assert_array_equal(labels, [[1.0, 0.0]] * 64)


def test_the_image_in_the_middle_of_an_odd_batch_stays():
    images = tf.random.stateless_normal((5, 8, 8, 3), (0, 0))
    for seed in SEEDS:
        out, labels = mix(images, tf.range(5), seed, 0.8, 1.0, 5)
        np.testing.assert_allclose(out[2], images[2], atol=1e-6)
        np.testing.assert_allclose(labels[2], np.eye(5)[2], atol=1e-6)


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
        ("randaugment", 10.5),
        ("randaugment", -0.1),
        ("randaugment_std", -1.0),
        ("interpolation", "nearest"),
        ("erasing", 1.5),
        ("erasing", float("nan")),
        ("mixup", -1.0),
        ("cutmix", float("inf")),
    ],
)
def test_option_errors(name, value):
    with pytest.raises(InputError, match=rf"^`{name}` must be .*\. Received: "):
        Augment(**{name: value})
