"""RandAugment as DeiT and its successors train with it: `rand-m9-mstd0.5-inc1` of timm.

Two of 15 operations follow each other, drawn with replacement; each is carried out with the probability 1/2, at a
magnitude drawn around the given one. "Increasing": the higher the magnitude, the further from the image as it is. Every
draw follows from a seed.
"""

from __future__ import annotations

from functools import partial

from keras_adavit.data import affine, image_operations

LARGEST = 10.0  # of the magnitudes
LAYERS = 2  # operations that may follow each other
PROBABILITY = 0.5


def rand_augment(image, seed, magnitude: float, std: float, fill, cubic: bool | None = None):
    """One image, varied.

    Args:
        image: uint8 `(H, W, 3)` of known size.
        seed: Integers `(2,)`; the same seed gives the same image.
        magnitude: In 0..10.
        std: Standard deviation of the magnitude of each operation, which is cut to 0..10.
        fill: Three numbers in 0..255: the colour of what comes from outside of the image.
        cubic: Whether the filter of rotation, shear and translation is bicubic or bilinear; by chance if not given.

    Returns:
        uint8 `(H, W, 3)`.
    """
    import tensorflow as tf

    uniform_seed, normal_seed = tf.unstack(tf.random.split(seed, 2))
    draws = tf.random.stateless_uniform((LAYERS, 4), uniform_seed)
    magnitudes = magnitude + std * tf.random.stateless_normal((LAYERS,), normal_seed)
    magnitudes = tf.clip_by_value(magnitudes, 0.0, LARGEST)

    def vary(layer, image):
        carried_out, choice, sign, filtering = tf.unstack(draws[layer])
        index = tf.minimum(tf.cast(choice * len(OPERATIONS), tf.int32), len(OPERATIONS) - 1)
        smooth = filtering < 0.5 if cubic is None else cubic
        varied = tf.switch_case(
            tf.where(carried_out < PROBABILITY, index, len(OPERATIONS)),
            [partial(operate, name, image, magnitudes[layer], sign < 0.5, smooth, fill) for name in OPERATIONS]
            + [lambda: image],
        )
        return layer + 1, varied

    # A loop: to trace all operations once for each layer would take seconds.
    return tf.while_loop(lambda layer, _: layer < LAYERS, vary, (0, image))[1]


def operate(name: str, image, magnitude, negative, cubic, fill):
    """One operation at a magnitude.

    Args:
        name: One of `OPERATIONS`.
        image: uint8 `(H, W, 3)` of known size.
        magnitude: Float scalar in 0..10.
        negative: Bool scalar: the direction, where there are two.
        cubic: Bool or bool scalar: the filter of `affine.warp`.
        fill: The colour of what comes from outside of the image, three numbers in 0..255.

    Returns:
        uint8 `(H, W, 3)`.
    """
    function, argument = OPERATIONS[name]
    if argument is None:
        return function(image)
    value = argument(magnitude / LARGEST, negative)
    return function(image, value, cubic, fill) if function in AFFINE else function(image, value)


def _signed(share, negative):
    import tensorflow as tf

    return tf.where(negative, -share, share)


def _up_to(largest):
    """Of both directions, up to a largest value."""
    return lambda share, negative: _signed(share * largest, negative)


def _enhancement(share, negative):
    """From 1, which changes nothing, up to 1.9 or down to 0.1."""
    import tensorflow as tf

    return tf.maximum(1 + _signed(0.9 * share, negative), 0.1)


def _bits(share, _):
    return 4 - _whole(4 * share)


def _threshold(share, _):
    return 256 - _whole(256 * share)


def _addend(share, _):
    return _whole(110 * share)


def _whole(number):
    import tensorflow as tf

    return tf.cast(number, tf.int32)


AFFINE = (affine.rotate, affine.shear_x, affine.shear_y, affine.translate_x, affine.translate_y)

# Each with the function of magnitude / 10, and of the direction, that gives its argument.
OPERATIONS = {
    "auto_contrast": (image_operations.auto_contrast, None),
    "equalize": (image_operations.equalize, None),
    "invert": (image_operations.invert, None),
    "rotate": (affine.rotate, _up_to(30.0)),
    "posterize": (image_operations.posterize, _bits),
    "solarize": (image_operations.solarize, _threshold),
    "solarize_add": (image_operations.solarize_add, _addend),
    "color": (image_operations.color, _enhancement),
    "contrast": (image_operations.contrast, _enhancement),
    "brightness": (image_operations.brightness, _enhancement),
    "sharpness": (image_operations.sharpness, _enhancement),
    "shear_x": (affine.shear_x, _up_to(0.3)),
    "shear_y": (affine.shear_y, _up_to(0.3)),
    "translate_x": (affine.translate_x, _up_to(0.45)),
    "translate_y": (affine.translate_y, _up_to(0.45)),
}
