"""Training augmentation: the options, and the operations on a batch: mixing and random erasing.

Every draw follows from a seed, on any number of threads, and is the one that DeiT and its successors train with. The
layers of keras-cv and Keras are used for nothing: they keep random states of their own, which the threads of a pipeline
share; their RandAugment has other operations and magnitudes, and keras-cv's takes twice the time of that in
`rand_augment.py` (`benchmarks/input_pipeline.py`).
"""

from __future__ import annotations

import math
from typing import Literal

from keras_adavit.errors import InputError
from keras_adavit.settings import NonNegativeFloat, PositiveFloat, PositiveShare, Share, checked, numbers, settings

ERASED_AREA = (0.02, 1 / 3)  # share of the image, as in the Random Erasing paper
ERASED_RATIO = 10 / 3  # sides differ by this at most
ERASING_TRIES = 10  # sizes drawn for one that fits

CropScale = numbers(PositiveShare, 2, "two rising numbers in (0, 1]")
CropRatio = numbers(PositiveFloat, 2, "two rising positive numbers")
Magnitude = checked(float, "a number from 0 to 10", ge=0, le=10)


@settings
class Augment:
    """How training images are varied; 0 switches an operation off.

    The published settings are in `experiments/published.py`.
    """

    crop_scale: CropScale = (0.08, 1.0)
    """Range of the random crop's share of the image's area."""
    crop_ratio: CropRatio = (3 / 4, 4 / 3)
    """Range of the random crop's width over its height."""
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    """Filter of the crop, which is resized without aliasing, and of RandAugment; random is one of the two by chance."""
    flip: bool = True
    """Mirror half of the images."""
    randaugment: Magnitude = 0.0
    """Magnitude of RandAugment, 0..10: up to two random operations on an image."""
    randaugment_std: NonNegativeFloat = 0.5
    """Standard deviation of the magnitude of each operation."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of MixUp; with CutMix as well, each batch gets one of the two."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of CutMix."""
    erasing: Share = 0.0
    """Share of the images in which a random rectangle becomes noise, after mixing."""

    def __post_init__(self):
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(f"`{name}` must be two rising numbers. Received: {name}=({low}, {high})")

    @property
    def cubic(self) -> bool | None:
        """Whether the filter is bicubic; `None` by chance."""
        return None if self.interpolation == "random" else self.interpolation == "bicubic"


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
    chosen = tf.where(tf.random.stateless_uniform((batch,), seeds[0]) < share)  # (chosen images N, 1)
    count = tf.shape(chosen)[0]
    areas = tf.random.stateless_uniform((count, ERASING_TRIES), seeds[1], *ERASED_AREA) * size**2
    ratios = tf.exp(tf.random.stateless_uniform((count, ERASING_TRIES), seeds[2], -1.0, 1.0) * math.log(ERASED_RATIO))
    sides = tf.round(tf.sqrt(tf.stack([areas * ratios, areas / ratios], -1)))  # (N, tries, 2)
    fits = tf.reduce_all(sides < size, -1)
    sides = tf.gather(sides, tf.argmax(tf.cast(fits, tf.int32), 1), batch_dims=1)
    sides = tf.where(tf.reduce_any(fits, 1)[:, None], sides, 0.0)
    lows = tf.floor(tf.random.stateless_uniform((count, 2), seeds[3]) * (size - sides + 1))
    erased = rectangles(lows, lows + sides, size)
    # Noise is drawn for the chosen images alone: it takes as long as decoding does.
    noise = tf.random.stateless_normal((count, *images.shape[1:]), seeds[4])
    found = tf.where(erased, noise, tf.gather_nd(images, chosen))
    return tf.tensor_scatter_nd_update(images, chosen, found)


def mix(images, labels, seed, mixup: float, cutmix: float, num_classes: int):
    """MixUp, CutMix, or by chance one of them, of a batch with itself in reverse order: one draw for all its images.

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

    size = images.shape[1]
    # Gathered: to slice backwards takes ten times as long.
    others = tf.gather(images, tf.range(tf.shape(images)[0] - 1, -1, -1))
    seeds = tf.unstack(tf.random.split(seed, 6))

    def beta(alpha, seed_a, seed_b):
        a = tf.random.stateless_gamma((), seed_a, alpha)
        return tf.math.divide_no_nan(a, a + tf.random.stateless_gamma((), seed_b, alpha))

    def blend():
        share = beta(mixup, seeds[0], seeds[1])
        return share * images + (1 - share) * others, share

    def cut():
        side = tf.floor(tf.sqrt(1 - beta(cutmix, seeds[2], seeds[3])) * size)
        middles = tf.floor(tf.random.stateless_uniform((1, 2), seeds[4]) * size)
        pasted = rectangles(middles - side // 2, middles + (side + 1) // 2, size)  # what leaves the image is cut off
        return tf.where(pasted, others, images), 1 - tf.reduce_mean(tf.cast(pasted, tf.float32))

    if mixup and cutmix:
        mixed, share = tf.cond(tf.random.stateless_uniform((), seeds[5]) < 0.5, cut, blend)
    else:
        mixed, share = blend() if mixup else cut()
    labels = tf.one_hot(labels, num_classes)
    return mixed, share * labels + (1 - share) * labels[::-1]


def rectangles(lows, highs, size: int):
    """Masks `(N, size, size, 1)` of rectangles from the pixels `lows` to before `highs`, both `(N, 2)` in y and x."""
    import tensorflow as tf

    pixels = tf.range(size, dtype=tf.float32)
    inside = (pixels >= lows[..., None]) & (pixels < highs[..., None])  # (N, 2, size)
    return inside[:, 0, :, None, None] & inside[:, 1, None, :, None]
