import numpy as np
import pytest

from keras_adavit.data.digits import MEAN, STD, Digits, digit_arrays, draw_digits
from keras_adavit.data.pipeline import denormalize
from keras_adavit.errors import InputError

BATCH = 479  # a third of the 1437 training digits: an epoch leaves none out


def gather(dataset):
    batches = [(images.numpy(), labels.numpy()) for images, labels in dataset]
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])


@pytest.fixture(scope="module")
def splits():
    return Digits().load(BATCH, seed=0)


@pytest.fixture(scope="module")
def epoch():
    return gather(Digits().load(BATCH, seed=0).train)


def test_split_is_disjoint_and_stratified():
    train, labels, held_out, held_out_labels = digit_arrays()
    assert (len(train), len(held_out)) == (1437, 360)
    assert (train.min(), train.max()) == (0, 1)
    assert not {digit.tobytes() for digit in train} & {digit.tobytes() for digit in held_out}
    shares = [np.bincount(each, minlength=10) / len(each) for each in (labels, held_out_labels)]
    np.testing.assert_allclose(*shares, atol=0.003)
    assert min(map(min, shares)) > 0.09


def test_batches(splits):
    images, labels = next(iter(splits.train))
    assert (images.shape, images.dtype.name) == ((BATCH, 32, 32, 1), "float32")
    assert (labels.shape, labels.dtype.name) == ((BATCH,), "int32")
    assert splits.class_names == tuple("0123456789")
    assert (splits.train_examples, splits.validation_examples, splits.skipped) == (1437, 1800, ())
    assert (splits.mean, splits.std) == (MEAN, STD)


def test_an_epoch_has_every_digit_once(epoch):
    np.testing.assert_array_equal(np.bincount(epoch[1]), np.bincount(digit_arrays()[1]))


def test_epochs_differ_and_the_seed_repeats_them(epoch):
    again = Digits().load(BATCH, seed=0)
    for one, other in zip(epoch, gather(again.train), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(epoch[0], gather(again.train)[0])
    assert not np.array_equal(epoch[0], gather(Digits().load(BATCH, seed=1).train)[0])


def test_statistics(epoch):
    images, _ = epoch
    pixels = denormalize(images, MEAN, STD)
    np.testing.assert_allclose(pixels, images * STD + MEAN, atol=1e-6)  # nothing to clip: 0..1 already
    assert 0.6 < (pixels < 1e-6).mean() < 0.75
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


def test_validation_is_fixed_and_whole(splits):
    images, labels = gather(splits.validation)
    assert (images.dtype, labels.dtype) == ("float32", "int32")
    np.testing.assert_array_equal(np.bincount(labels), 5 * np.bincount(digit_arrays()[3]))
    assert len(np.unique(images, axis=0)) == 1800
    other_seed = gather(Digits().load(100, seed=7).validation)
    np.testing.assert_array_equal(images, other_seed[0])
    np.testing.assert_array_equal(labels, other_seed[1])


def test_repeats():
    splits = Digits(repeats=2, image_size=16, min_digit=8, max_digit=16, validation_draws=1).load(BATCH, seed=0)
    images, labels = gather(splits.train)
    assert images.shape == (2 * 1437, 16, 16, 1)
    assert splits.validation_examples == 360
    np.testing.assert_array_equal(np.bincount(labels), 2 * np.bincount(digit_arrays()[1]))


def draw(digits, index, low=16, high=26, clutter=0, seed=(1, 2)):
    return draw_digits(digits, np.array(index), seed, 32, low, high, clutter).numpy()[..., 0]


def test_a_digit_is_drawn_whole():
    digits = digit_arrays()[0]
    images = draw(digits, range(64), 18, 18)
    # 8 pixels and half a triangle on either side span 9 steps of 2 pixels: ink grows four times.
    np.testing.assert_allclose(images.sum((1, 2)), 4 * digits[:64].sum((1, 2)), rtol=1e-4)
    for image in images:
        rows, columns = np.nonzero(image > 1e-6)
        assert np.ptp(rows) < 18
        assert np.ptp(columns) < 18


def test_digits_reach_every_side():
    inked = (draw(np.ones((1, 8, 8), "float32"), [0] * 1000) > 0).any(0)
    assert inked[:, [0, -1]].any(0).all()
    assert inked[[0, -1]].any(1).all()


def test_clutter_lies_beside_the_digit():
    digits = digit_arrays()[0]
    alone, crowded = draw(digits, range(256)), draw(digits, range(256), clutter=1)
    np.testing.assert_array_equal(alone[alone > 1e-6], crowded[alone > 1e-6])
    assert ((crowded - alone).max((1, 2)) > 0.3).mean() > 0.8
    assert (draw(digits, range(256), clutter=3) > 1e-6).sum() > (crowded > 1e-6).sum()


def test_clutter_comes_from_other_digits():
    one_bright = np.zeros((5, 8, 8), "float32")
    one_bright[2] = 1
    np.testing.assert_array_equal(draw(one_bright, [2] * 50, clutter=2), draw(one_bright, [2] * 50))
    assert draw(one_bright, [0] * 50, clutter=2).max() > 0.9


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"image_size": 0}, "image_size"),
        ({"min_digit": 0}, "min_digit"),
        ({"clutter": -1}, "clutter"),
        ({"repeats": 0}, "repeats"),
        ({"validation_draws": 0}, "validation_draws"),
        ({"min_digit": 20, "max_digit": 19}, "max_digit"),
        ({"max_digit": 33}, "max_digit"),
    ],
)
def test_option_errors(options, name):
    with pytest.raises(InputError, match=rf"^`{name}` must be .*\. Received: .*{name}={options[name]}\b"):
        Digits(**options)
