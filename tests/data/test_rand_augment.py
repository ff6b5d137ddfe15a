"""Every operation of RandAugment beside Pillow's, and what is drawn beside timm's where timm is installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_adavit.data import image_operations
from keras_adavit.data.affine import warp
from keras_adavit.data.rand_augment import AFFINE, OPERATIONS, operate, rand_augment

FILL = (124, 116, 104)
HEIGHT, WIDTH = 40, 56
MOVING = [name for name, (function, _) in OPERATIONS.items() if function in AFFINE]
MAGNITUDES = (4.3, 9.0)


def photo(kind="smooth"):
    """Waves of all colours with some noise; or noise alone; or three levels; or one colour."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    waves = 120 + 90 * np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 11)], -1)
    pixels = {
        "smooth": waves + rng.normal(0, 8, waves.shape),
        "noise": rng.integers(0, 256, waves.shape),
        "levels": 40 + 60 * rng.integers(0, 3, waves.shape),
        "plain": np.full(waves.shape, (10, 200, 128)),
    }[kind]
    return np.clip(pixels, 0, 255).astype("uint8")


def transform(image, matrix, cubic):
    filtering = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    return image.transform(image.size, Image.Transform.AFFINE, matrix, filtering, fillcolor=FILL)


def enhance(kind):
    return lambda image, level, sign, _: kind(image).enhance(max(0.1, 1 + sign * 0.09 * level))


def rotated(image, level, sign, cubic):
    filtering = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    return image.rotate(sign * 3 * level, filtering, fillcolor=FILL)


def added(image, level, *_):
    return image.point([min(255, i + int(11 * level)) if i < 128 else i for i in range(256)] * 3)


# What Pillow does at a level 0..10 in the direction of a sign.
PILLOW = {
    "auto_contrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
    "rotate": rotated,
    "posterize": lambda image, level, *_: ImageOps.posterize(image, 4 - int(0.4 * level)),
    "solarize": lambda image, level, *_: ImageOps.solarize(image, 256 - int(25.6 * level)),
    "solarize_add": added,
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, level, sign, cubic: transform(image, (1, sign * 0.03 * level, 0, 0, 1, 0), cubic),
    "shear_y": lambda image, level, sign, cubic: transform(image, (1, 0, 0, sign * 0.03 * level, 1, 0), cubic),
    "translate_x": lambda image, level, sign, cubic: transform(
        image, (1, 0, sign * 0.045 * level * WIDTH, 0, 1, 0), cubic
    ),
    "translate_y": lambda image, level, sign, cubic: transform(
        image, (1, 0, 0, 0, 1, sign * 0.045 * level * HEIGHT), cubic
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("kind", ["smooth", "levels", "plain"])
def test_operations_are_pillows(name, kind):
    pixels = photo(kind)
    for magnitude in MAGNITUDES:
        for negative in (False, True):
            for cubic in (False, True) if name in MOVING else (False,):
                out = np.asarray(operate(name, pixels, tf.constant(magnitude), tf.constant(negative), cubic, FILL))
                expected = PILLOW[name](Image.fromarray(pixels), magnitude, -1 if negative else 1, cubic)
                assert (out.shape, out.dtype) == (pixels.shape, "uint8")
                difference = np.abs(out.astype(int) - np.asarray(expected))
                # Rounding alone; where a pixel lies on the very edge of the image, it may be filled in one of the two.
                assert difference.mean() < 0.3, (magnitude, negative, cubic)
                assert (difference > 1).mean() < 0.002, (magnitude, negative, cubic)


def test_four_bits_can_go():
    np.testing.assert_array_equal(image_operations.posterize(photo(), 0), np.zeros((HEIGHT, WIDTH, 3)))
    np.testing.assert_array_equal(image_operations.posterize(photo(), 8), photo())


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 3), (2, 2, 3)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_tiny_images(name, shape):
    out = operate(name, np.full(shape, 90, "uint8"), tf.constant(5.0), tf.constant(True), True, FILL)
    assert (out.shape, out.dtype) == (shape, "uint8")


@pytest.mark.parametrize("cubic", [False, True])
def test_a_warp_that_moves_nothing_changes_nothing(cubic):
    one = tf.constant(1.0)  # a tensor: the filter runs
    np.testing.assert_array_equal(warp(photo(), (one, 0, 0), (0, one, 0), cubic, FILL), photo())


def test_everything_from_outside_is_filled():
    out = warp(photo(), (1, 0, WIDTH), (0, 1, 0), True, FILL)
    np.testing.assert_array_equal(out, np.broadcast_to(FILL, out.shape))


def varied(count, threads):
    """One photo, varied `count` times inside `tf.data`."""
    seeds = tf.data.Dataset.range(count).map(lambda number: tf.random.fold_in([0, 0], number))
    images = seeds.map(lambda seed: rand_augment(tf.constant(photo()), seed, 9.0, 0.5, FILL), threads)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    return np.stack([image.numpy() for image in images.with_options(options)])


def test_the_seed_decides_on_any_number_of_threads():
    alone, together = varied(64, threads=1), varied(64, threads=8)
    assert (alone.shape, alone.dtype) == ((64, HEIGHT, WIDTH, 3), "uint8")
    np.testing.assert_array_equal(alone, together)
    untouched = (alone == photo()).all((1, 2, 3)).mean()
    assert 0.1 < untouched < 0.45  # 1/4 by the draws
    assert len(np.unique(alone, axis=0)) > 35


def test_magnitude_0_changes_nothing_where_there_is_one():
    for name in OPERATIONS.keys() - {"auto_contrast", "equalize", "invert", "posterize"}:
        out = operate(name, photo(), tf.constant(0.0), tf.constant(True), True, FILL)
        np.testing.assert_array_equal(out, photo())


def test_operations_and_arguments_are_those_of_timm():
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("timm is not installed")
    # The module alone: the package around it needs torchvision.
    spec = importlib.util.spec_from_file_location("auto_augment", Path(found.origin).parent / "data/auto_augment.py")
    timm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timm)
    names = timm._RAND_INCREASING_TRANSFORMS
    assert len(names) == len(OPERATIONS)
    image = Image.fromarray(photo())
    for name, theirs in zip(OPERATIONS, names, strict=True):
        for magnitude in MAGNITUDES:
            for negative in (False, True):
                timm._randomly_negate = lambda value, negative=negative: -value if negative else value
                arguments = timm.LEVEL_TO_ARG[theirs](magnitude, {}) if timm.LEVEL_TO_ARG[theirs] else ()
                options = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
                expected = np.asarray(timm.NAME_TO_OP[theirs](image, *arguments, **options)).astype(int)
                out = np.asarray(operate(name, photo(), tf.constant(magnitude), tf.constant(negative), True, FILL))
                assert np.abs(out - expected).mean() < 0.1, (name, magnitude, negative)
