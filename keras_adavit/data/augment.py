"""Training augmentation: the options, and the operations that come after decoding.

keras-cv is used here alone, for RandAugment: inside `tf.data` at 224 pixels it is some ten times as fast
as the layer of that name in Keras. Mixing and erasing are written out: the layers of keras-cv and Keras
keep random states, so that they are reproducible one batch at a time only, which held a pipeline at 240
images a second. Here the draws follow from a seed, on any number of threads.
"""

from __future__ import annotations

import math

import keras

from keras_adavit.errors import InputError
from keras_adavit.settings import NonNegativeFloat, PositiveFloat, PositiveShare, Share, numbers, settings

ERASED_AREA = (0.02, 1 / 3)  # share of the image, as in the Random Erasing paper
ERASED_RATIO = 10 / 3  # sides differ by this at most

CropScale = numbers(PositiveShare, 2, "two rising numbers in (0, 1]")
CropRatio = numbers(PositiveFloat, 2, "two rising positive numbers")


@settings
class Augment:
    """How training images are varied; 0 switches an operation off."""

    crop_scale: CropScale = (0.08, 1.0)
    """Range of the random crop's share of the image's area."""
    crop_ratio: CropRatio = (3 / 4, 4 / 3)
    """Range of the random crop's width over its height."""
    flip: bool = True
    """Mirror half of the images."""
    randaugment: Share = 0.0
    """Magnitude of RandAugment, 0..1: two random operations on an image."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of MixUp; with CutMix as well, each image gets one of the two."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of CutMix."""
    erasing: Share = 0.0
    """Share of the images in which a random rectangle becomes noise."""

    def __post_init__(self):
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(f"`{name}` must be two rising numbers. Received: {name}=({low}, {high})")


def rand_augment(magnitude: float, seed: int):
    """keras-cv's RandAugment as a function of one uint8 image `(H, W, 3)`.

    Its operations keep random states of their own, which the threads of a pipeline share: the draws differ
    from one run to the next even where `seed` is the same.
    """
    import keras_cv
    import tensorflow as tf

    # The layers inside take the global policy: in half precision they give NaN.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        layer = keras_cv.layers.RandAugment((0, 255), augmentations_per_image=2, magnitude=magnitude, seed=seed)
    finally:
        keras.config.set_dtype_policy(policy)

    def augment(image):
        return tf.saturate_cast(tf.round(layer(image)), tf.uint8)

    return augment


def erase(images, seed, share: float):
    """Random erasing: a rectangle becomes noise in a `share` of the images.

    Args:
        images: Normalised float32 `(B, S, S, C)`.
        seed: Integers `(2,)`.
        share: Probability that an image is chosen, 0..1.

    Returns:
        Images of the same form.
    """
    import tensorflow as tf

    batch, size = tf.shape(images)[0], images.shape[1]
    seeds = tf.unstack(tf.random.split(seed, 5))
    areas = tf.random.stateless_uniform((batch, 1), seeds[0], *ERASED_AREA)
    ratios = tf.exp(tf.random.stateless_uniform((batch, 1), seeds[1], -1.0, 1.0) * math.log(ERASED_RATIO))
    sides = tf.minimum(tf.sqrt(areas * tf.concat([ratios, 1 / ratios], 1)), 1.0) * size
    erased = _rectangles(sides, tf.random.stateless_uniform((batch, 2), seeds[2]), size)
    chosen = tf.random.stateless_uniform((batch, 1, 1, 1), seeds[3]) < share
    # One noise image serves the batch: drawing one for each image would take longer than decoding.
    noise = tf.random.stateless_normal(images.shape[1:], seeds[4])
    return tf.where(erased & chosen, noise, images)


def mix(images, labels, seed, mixup: float, cutmix: float, num_classes: int):
    """MixUp, CutMix, or for each image one of them by chance, with the next image of the batch.

    Args:
        images: Float32 `(B, S, S, C)`.
        labels: Int32 `(B,)`.
        seed: Integers `(2,)`.
        mixup: Alpha of MixUp's Beta(alpha, alpha), 0 for none.
        cutmix: Alpha of CutMix, 0 for none; one of the two must be given.
        num_classes: K.

    Returns:
        Mixed images, and float32 labels `(B, K)` that sum to 1: each class by the share of pixels it gives.
    """
    import tensorflow as tf

    batch, size = tf.shape(images)[0], images.shape[1]
    seeds = tf.unstack(tf.random.split(seed, 6))

    def beta(alpha, seed_a, seed_b):
        a = tf.random.stateless_gamma((batch, 1), seed_a, alpha)
        return tf.math.divide_no_nan(a, a + tf.random.stateless_gamma((batch, 1), seed_b, alpha))

    # What an image keeps of itself: everywhere the same share (MixUp), or all outside a rectangle (CutMix).
    if mixup:
        kept = blended = tf.ones((1, size, size, 1)) * beta(mixup, seeds[0], seeds[1])[:, :, None, None]
    if cutmix:
        sides = tf.sqrt(1 - beta(cutmix, seeds[2], seeds[3])) * tf.ones((1, 2)) * size
        pasted = _rectangles(sides, tf.random.stateless_uniform((batch, 2), seeds[4]), size)
        kept = cut = tf.cast(~pasted, tf.float32)
    if mixup and cutmix:
        kept = tf.where(tf.random.stateless_uniform((batch, 1, 1, 1), seeds[5]) < 0.5, blended, cut)

    share = tf.reduce_mean(kept, (1, 2))  # (B, 1)
    labels = tf.one_hot(labels, num_classes)
    images = kept * images + (1 - kept) * tf.roll(images, 1, 0)
    return images, share * labels + (1 - share) * tf.roll(labels, 1, 0)


def _rectangles(sides, places, size: int):
    """Masks `(B, size, size, 1)` of rectangles with `sides` `(B, 2)` in pixels, at `places` `(B, 2)` in 0..1."""
    import tensorflow as tf

    centres = tf.range(size, dtype=tf.float32) + 0.5
    middles = places * (size - sides) + sides / 2
    inside = tf.abs(centres - middles[..., None]) < sides[..., None] / 2  # (B, 2, size)
    return inside[:, 0, :, None, None] & inside[:, 1, None, :, None]
