"""From the bytes of an image file to a square RGB image.

The content of a file decides how it is read, not its name: JPEG (also CMYK), PNG (also palette, alpha,
16 bits), GIF, BMP. Only the part of a JPEG that is used is decoded.
"""

from __future__ import annotations

import math

CROP_TRIES = 10  # windows drawn for one that fits


def decode(encoded, crop=None):
    """Decodes an image file, or a part of it.

    Args:
        encoded: Scalar string, the bytes of the file.
        crop: Function from the image's height and width, int32 scalars, to the window that is wanted: int32
            `(4,)`, top, left, height, width. `None` for the whole image.

    Returns:
        uint8 `(height, width, 3)`.
    """
    import tensorflow as tf

    def window(shape):
        return tf.stack([0, 0, shape[0], shape[1]]) if crop is None else crop(shape[0], shape[1])

    def jpeg():
        box = window(tf.io.extract_jpeg_shape(encoded))
        # The accurate transform is the one of other libraries; published accuracies were measured with it.
        return tf.image.decode_and_crop_jpeg(encoded, box, channels=3, dct_method="INTEGER_ACCURATE")

    def other():
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        top, left, height, width = tf.unstack(window(tf.shape(image)))
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded), jpeg, other)


def decode_random_crop(encoded, seed, image_size: int, scale, ratio, flip: bool, cubic: bool | None = None):
    """Decodes a random window of an image and resizes it without aliasing.

    Args:
        encoded: Scalar string, the bytes of the file.
        seed: Integers `(2,)`; the same seed gives the same image.
        image_size: Side of the result.
        scale: Range of the window's share of the image's area.
        ratio: Range of the window's width over its height.
        flip: Whether half of the images are mirrored.
        cubic: Whether the filter is bicubic or bilinear; one of the two by chance if not given.

    Returns:
        uint8 `(image_size, image_size, 3)`.
    """
    import tensorflow as tf

    window_seed, flip_seed, filter_seed = tf.unstack(tf.random.split(seed, 3))
    window = decode(encoded, lambda height, width: random_window(height, width, window_seed, scale, ratio))

    def resize(method):
        return lambda: _resize(window, image_size, method)

    smooth = tf.random.stateless_uniform((), filter_seed) < 0.5 if cubic is None else tf.constant(cubic)
    image = tf.ensure_shape(
        _to_uint8(tf.cond(smooth, resize("bicubic"), resize("bilinear"))), (image_size, image_size, 3)
    )
    if not flip:
        return image
    mirrored = tf.random.stateless_uniform((), flip_seed) < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def random_window(height, width, seed, scale, ratio):
    """A random window of an image, as the Inception networks and their successors are trained.

    Args:
        height: Of the image, int32 scalar.
        width: Of the image.
        seed: Integers `(2,)`.
        scale: Range of the window's share of the image's area, drawn uniformly.
        ratio: Range of its width over its height, whose logarithm is drawn uniformly.

    Returns:
        int32 `(4,)`: top, left, height, width. The first of ten tries that fits; without one, the largest window in the
        middle whose ratio is in the range.
    """
    import tensorflow as tf

    seeds = tf.unstack(tf.random.split(seed, 3))
    image = tf.cast(tf.stack([height, width]), tf.float32)
    low, high = ratio
    areas = tf.random.stateless_uniform((CROP_TRIES,), seeds[0], *scale) * tf.reduce_prod(image)
    ratios = tf.exp(tf.random.stateless_uniform((CROP_TRIES,), seeds[1], math.log(low), math.log(high)))
    sides = tf.round(tf.sqrt(tf.stack([areas / ratios, areas * ratios], 1)))  # (tries, 2), heights and widths
    sides = tf.maximum(sides, 1.0)
    fits = tf.reduce_all(sides <= image, 1)
    largest = tf.minimum(image, tf.maximum(tf.round(tf.stack([image[1] / low, image[0] * high])), 1.0))
    found = tf.reduce_any(fits)
    side = tf.where(found, sides[tf.argmax(tf.cast(fits, tf.int32))], largest)
    free = image - side
    drawn = tf.floor(tf.random.stateless_uniform((2,), seeds[2]) * (free + 1))
    begin = tf.where(found, tf.minimum(drawn, free), free // 2)
    return tf.cast(tf.concat([begin, side], 0), tf.int32)


def decode_center_crop(encoded, image_size: int, crop_fraction: float):
    """Decodes the central square of an image and resizes it, bicubic and without aliasing.

    An image of `image_size` × `image_size` comes out as it is when `crop_fraction` is 1.

    Args:
        encoded: Scalar string, the bytes of the file.
        image_size: Side of the result.
        crop_fraction: Side of the square over the image's shorter side.

    Returns:
        uint8 `(image_size, image_size, 3)`.
    """
    import tensorflow as tf

    square = decode(encoded, lambda height, width: center_window(height, width, crop_fraction))
    return tf.ensure_shape(resize_square(square, image_size), (image_size, image_size, 3))


def center_crop(pixels, image_size: int, crop_fraction: float):
    """The central square of images, resized as by `decode_center_crop`.

    Args:
        pixels: uint8 `(B, height, width, 3)`.
        image_size: Side of the result.
        crop_fraction: Side of the square over the images' shorter side.

    Returns:
        uint8 `(B, image_size, image_size, 3)`.
    """
    import tensorflow as tf

    top, left, side, _ = tf.unstack(center_window(tf.shape(pixels)[1], tf.shape(pixels)[2], crop_fraction))
    square = pixels[:, top : top + side, left : left + side]
    return tf.ensure_shape(resize_square(square, image_size), (None, image_size, image_size, 3))


def center_window(height, width, crop_fraction: float):
    """The central square of an image: int32 `(4,)`, top, left, height, width, from its height and width."""
    import tensorflow as tf

    side = tf.cast(tf.round(crop_fraction * tf.cast(tf.minimum(height, width), tf.float32)), tf.int32)
    side = tf.maximum(side, 1)
    return tf.stack([(height - side) // 2, (width - side) // 2, side, side])


def resize_square(square, image_size: int):
    """Resizes uint8 `(..., side, side, 3)` to another side, bicubic and without aliasing."""
    import tensorflow as tf

    return tf.cond(
        tf.shape(square)[-2] == image_size,  # already right: three times as fast for small images
        lambda: square,
        lambda: _to_uint8(_resize(square, image_size, "bicubic")),
    )


def _resize(images, image_size: int, method: str):
    """Resizes `(..., height, width, 3)` to a square without aliasing."""
    import tensorflow as tf

    # Where nothing shrinks there is no aliasing, and the plain operation gives the same in a third of the time.
    shrinks = tf.reduce_any(tf.shape(images)[-3:-1] > image_size)
    size = (image_size, image_size)
    return tf.cond(
        shrinks,
        lambda: tf.image.resize(images, size, method, antialias=True),
        lambda: tf.image.resize(images, size, method),
    )


def _to_uint8(images):
    import tensorflow as tf

    return tf.cast(tf.clip_by_value(images + 0.5, 0, 255), tf.uint8)
