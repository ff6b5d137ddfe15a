"""Embedded data: real handwritten digits, drawn at random sizes and places among scraps of other digits.

Each image holds one digit, the rest of it is empty or clutter: how much of an image matters, and where,
differs from image to image, which is what an adaptive model has to find out. Nothing is downloaded.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from keras_adavit.data.part import WHOLE, Part
from keras_adavit.data.pipeline import Splits, drawn_anew, epoch_seed, shuffled_indices, start_tensorflow, with_seeds
from keras_adavit.errors import InputError
from keras_adavit.memory import check_memory
from keras_adavit.settings import settings, whole

SIDE = 8  # pixels of a digit's side in scikit-learn's data
MEAN, STD = (0.12,), (0.25,)  # about those of the drawn images, at the default sizes
SPLIT_SEED = 0  # the held-out digits and their drawings never change: results stay comparable
CANDIDATES = 4  # places tried for a scrap; the one that hides least beneath the digit is taken

DigitsSize = whole(1, 1024)
Repeats = whole(1, 1000)
Clutter = whole(0, 100)


@settings
class Digits:
    """scikit-learn's 1797 handwritten digits, drawn on an empty canvas with clutter around them."""

    image_size: DigitsSize = 32
    """Side of the square canvas, in pixels; the images have one channel."""
    min_digit: DigitsSize = 16
    """Smallest side of a drawn digit, in pixels."""
    max_digit: DigitsSize = 26
    """Largest side of a drawn digit, in pixels."""
    clutter: Clutter = 1
    """Scraps of other digits in each image."""
    repeats: Repeats = 1
    """How often an epoch draws each training digit."""
    validation_draws: Repeats = 5
    """How often each held-out digit appears in the fixed validation set."""

    def __post_init__(self):
        if not self.min_digit <= self.max_digit <= self.image_size:
            raise InputError(
                "`max_digit` must be between `min_digit` and `image_size`. Received: "
                f"min_digit={self.min_digit}, max_digit={self.max_digit}, image_size={self.image_size}"
            )

    def check_memory(self, images: int) -> None:
        """Raises `InputError` if so many images, with the scraps that are drawn for them, cannot fit into memory."""
        floats = images * self.image_size**2 * (2 + self.clutter)
        sizes = f"{images} images with image_size={self.image_size}, clutter={self.clutter}"
        check_memory(4 * floats, "The drawn images of all `validation_draws` and of a batch", sizes)

    def load(self, batch_size: int, seed: int, part: Part = WHOLE) -> Splits:
        """Makes the two pipelines.

        Args:
            batch_size: Images in a batch.
            seed: Of the order and the drawing of the training images. The validation set does not depend on it.
            part: What of each training batch is given.

        Returns:
            `Splits` with images float32 `(B, image_size, image_size, 1)` and labels int32 `(B,)`.
        """
        start_tensorflow()
        import tensorflow as tf

        digits, labels, held_out, held_out_labels = digit_arrays()
        epoch = len(digits) * self.repeats
        self.check_memory(len(held_out) * self.validation_draws + min(batch_size, epoch))

        def draw(index, seed):
            index %= len(digits)
            images = draw_digits(digits, index, seed, self.image_size, self.min_digit, self.max_digit, self.clutter)
            return _normalize(images), tf.gather(labels, index)

        def train_epoch(number):
            order_seed, batch_seed = tf.unstack(tf.random.split(epoch_seed(seed, number)))
            order = shuffled_indices(epoch, order_seed).batch(batch_size, drop_remainder=True)
            batches = with_seeds(order, batch_seed).map(draw, num_parallel_calls=tf.data.AUTOTUNE)
            return part.of(batches, batch_size).prefetch(tf.data.AUTOTUNE)

        index = np.tile(np.arange(len(held_out)), self.validation_draws)
        with tf.device("CPU"):
            images = _normalize(
                draw_digits(
                    held_out, index, [SPLIT_SEED, 0], self.image_size, self.min_digit, self.max_digit, self.clutter
                )
            )
            validation = tf.data.Dataset.from_tensor_slices((images.numpy(), held_out_labels[index]))
        train = drawn_anew(train_epoch, epoch // batch_size, seed)
        return Splits(
            train=train,
            train_epoch=train_epoch,
            validation=validation.batch(batch_size).prefetch(tf.data.AUTOTUNE),
            calibration=train,
            class_names=tuple("0123456789"),
            train_examples=len(digits),
            validation_examples=len(index),
            mean=MEAN,
            std=STD,
        )


@cache
def digit_arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The digits, split 80/20 with the classes in proportion, always the same way.

    Returns:
        Training digits, float32 `(N, 8, 8)` in 0..1, their labels, int32 `(N,)`, and the same of the held-out.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    digits, labels = (data.images / 16).astype("float32"), data.target.astype("int32")
    train, held_out, train_labels, held_out_labels = train_test_split(
        digits, labels, test_size=0.2, stratify=labels, random_state=SPLIT_SEED
    )
    return train, train_labels, held_out, held_out_labels


def draw_digits(digits, index, seed, image_size: int, min_digit: int, max_digit: int, clutter: int):
    """Draws one image of each digit named in `index`.

    Args:
        digits: Float32 `(N, 8, 8)` in 0..1.
        index: Integers `(B,)` in 0..N-1.
        seed: Two integers; the same seed draws the same images.
        image_size: Side of the canvas.
        min_digit: Smallest side of a drawn digit.
        max_digit: Largest side of a drawn digit.
        clutter: Scraps of other digits in an image.

    Returns:
        Float32 `(B, image_size, image_size, 1)` in 0..1, 0 where the canvas is empty.
    """
    import tensorflow as tf

    batch, count = tf.shape(index)[0], len(digits)
    digits, index = tf.constant(digits), tf.cast(index, tf.int32)
    seeds = tf.unstack(tf.random.split(seed, 5))

    def uniform(i, shape, low=0, high=1, dtype=tf.float32):
        return tf.random.stateless_uniform((batch, *shape), seeds[i], low, high, dtype)

    sizes = uniform(0, (1,), min_digit, max_digit)  # (B, 1)
    corners = uniform(1, (2,)) * (image_size - sizes)  # (B, 2), top and left
    canvas = _paste(tf.gather(digits, index), corners, sizes, image_size)
    if not clutter:
        return canvas[..., None]

    # A scrap: a window of a third to a half of the side, cut anywhere from any other digit.
    others = (index[:, None] + uniform(2, (clutter,), 1, count, tf.int32)) % count  # (B, N)
    windows = uniform(3, (clutter, 2, 2))
    lengths = SIDE * (1 / 3 + windows[:, :, 0] / 6)  # (B, N, 2)
    starts = windows[:, :, 1] * (SIDE - lengths)
    pixels = tf.range(SIDE, dtype=tf.float32) + 0.5
    inside = tf.cast(tf.abs(pixels - (starts + lengths / 2)[..., None]) < lengths[..., None] / 2, tf.float32)
    scraps = tf.gather(digits, others) * inside[:, :, 0, :, None] * inside[:, :, 1, None, :]  # (B, N, 8, 8)

    step = (sizes / (SIDE + 1))[:, None]  # (B, 1, 1), canvas pixels to a digit's pixel
    extents = (lengths + 1) * step  # (B, N, 2)
    places = uniform(4, (clutter, CANDIDATES, 2)) * (image_size - extents)[:, :, None]  # (B, N, candidates, 2)
    first, last = corners[:, None, None], (corners + sizes)[:, None, None]
    hidden = tf.minimum(places + extents[:, :, None], last) - tf.maximum(places, first)
    best = tf.argmin(tf.reduce_prod(tf.nn.relu(hidden), -1), -1)  # (B, N)
    places = tf.gather(places, best, batch_dims=2)
    scraps = _paste(scraps, places - starts * step, sizes[:, None], image_size)  # (B, N, S, S)

    # The scraps lie beneath the digit: inside its box there is nothing but the digit.
    centres = tf.range(image_size, dtype=tf.float32) + 0.5
    outside = tf.cast(tf.abs(centres - (corners + sizes / 2)[..., None]) > sizes[..., None] / 2, tf.float32)
    beneath = tf.reduce_max(scraps, 1) * tf.maximum(outside[:, 0, :, None], outside[:, 1, None, :])
    return tf.maximum(canvas, beneath)[..., None]


def _paste(digits, corners, sizes, image_size: int):
    """Bilinear drawing of digits `(..., 8, 8)` on canvases `(..., S, S)`: one small matrix for each axis.

    `corners` `(..., 2)` and `sizes` `(..., 1)` give each digit's box. The triangles of interpolation reach
    one pixel past the outermost pixels, so that the 8 pixels span 9 steps and nothing leaves the box.
    """
    import tensorflow as tf

    centres = tf.range(image_size, dtype=tf.float32) + 0.5
    at = (centres - corners[..., None]) * ((SIDE + 1) / sizes)[..., None] - 1  # (..., 2, S), in digit pixels
    weights = tf.nn.relu(1 - tf.abs(at[..., None] - tf.range(SIDE, dtype=tf.float32)))  # (..., 2, S, 8)
    rows, columns = weights[..., 0, :, :], weights[..., 1, :, :]
    return rows @ digits @ tf.linalg.matrix_transpose(columns)


def _normalize(images):
    return (images - np.float32(MEAN)) / np.float32(STD)
