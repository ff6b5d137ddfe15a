"""Rotation, shear and translation of one image, pixel by pixel as Pillow has them.

TensorFlow's own warp knows neither Pillow's bicubic filter nor a fill colour of three channels; so four or sixteen
pixels of the image are gathered for each of the result.
"""

from __future__ import annotations

import math


def rotate(image, degrees, cubic, fill):
    """Turns an image counter-clockwise around its centre; the other arguments are those of `warp`."""
    import tensorflow as tf

    height, width, _ = image.shape
    sine, cosine = tf.sin(degrees * (math.pi / 180)), tf.cos(degrees * (math.pi / 180))
    x, y = width / 2, height / 2
    rows = (cosine, -sine, x - x * cosine + y * sine), (sine, cosine, y - x * sine - y * cosine)
    return warp(image, *rows, cubic, fill)


def shear_x(image, factor, cubic, fill):
    """Moves each row to the left by `factor` times its distance from the upper edge."""
    return warp(image, (1, factor, 0), (0, 1, 0), cubic, fill)


def shear_y(image, factor, cubic, fill):
    """Moves each column upwards by `factor` times its distance from the left edge."""
    return warp(image, (1, 0, 0), (factor, 1, 0), cubic, fill)


def translate_x(image, share, cubic, fill):
    """Moves an image to the left by a share of its width."""
    return warp(image, (1, 0, share * image.shape[1]), (0, 1, 0), cubic, fill)


def translate_y(image, share, cubic, fill):
    """Moves an image upwards by a share of its height."""
    return warp(image, (1, 0, 0), (0, 1, share * image.shape[0]), cubic, fill)


def warp(image, x_row, y_row, cubic, fill):
    """An image, each pixel of which comes from another place of the given one.

    Args:
        image: uint8 `(H, W, 3)` of known size.
        x_row: Three numbers or float scalars a, b, c: a pixel with the centre (x, y) comes from a·x + b·y + c in the
            horizontal.
        y_row: The same of the vertical.
        cubic: Whether the filter is bicubic, a bool or a bool scalar; else it is bilinear.
        fill: Three numbers in 0..255: the colour of what comes from outside of the image.

    Returns:
        uint8 `(H, W, 3)`.
    """
    import tensorflow as tf

    height, width, _ = image.shape
    x = tf.range(width, dtype=tf.float32)[None, :] + 0.5
    y = tf.range(height, dtype=tf.float32)[:, None] + 0.5
    rows = [[tf.cast(number, tf.float32) for number in row] for row in (x_row, y_row)]
    from_x, from_y = (tf.broadcast_to(a * x + b * y + c, (height, width)) for a, b, c in rows)
    pixels = tf.reshape(tf.cast(image, tf.float32), (-1, 3))

    def blend(taps):
        # An axis along which nothing moves needs no filter.
        columns = [(tf.cast(from_x, tf.int32), None)] if _is(x_row, (1, 0, 0)) else taps(from_x, width)
        lines = [(tf.cast(from_y, tf.int32), None)] if _is(y_row, (0, 1, 0)) else taps(from_y, height)

        def filter_line(line):
            found = [
                (tf.gather(pixels, tf.reshape(line * width + column, (-1,))), weight) for column, weight in columns
            ]
            return tf.add_n([_weigh(*each) for each in found])

        filtered = tf.add_n([_weigh(filter_line(line), weight) for line, weight in lines])
        return tf.reshape(filtered, (height, width, 3))

    filtered = tf.cond(tf.cast(cubic, tf.bool), lambda: blend(_cubic_taps), lambda: blend(_linear_taps))
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    filtered = tf.where(inside[..., None], filtered, tf.constant(fill, tf.float32))
    # Cut off and not rounded, as Pillow does; it computes in double precision, where whole numbers come out whole.
    return tf.cast(tf.clip_by_value(filtered + 1e-3, 0, 255), tf.uint8)


def _is(row, numbers) -> bool:
    return all(isinstance(number, int | float) for number in row) and tuple(row) == numbers


def _weigh(pixels, weight):
    """Pixels `(H · W, 3)` times a weight for each, `(H, W)`; as they are without one."""
    import tensorflow as tf

    return pixels if weight is None else pixels * tf.reshape(weight, (-1, 1))


def _linear_taps(places, size: int):
    """The two pixels of an axis next to each place: indices and weights, both `(H, W)`."""
    first, share = _split(places)
    return _within([(first, 1 - share), (first + 1, share)], size)


def _cubic_taps(places, size: int):
    """The four pixels of an axis next to each place, with the weights of Pillow's transforms (a = -1)."""
    first, d = _split(places)
    weights = (-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, d**3 - d**2)
    return _within([(first + offset, weight) for offset, weight in zip((-1, 0, 1, 2), weights, strict=True)], size)


def _split(places):
    """Places as the index of the pixel whose centre comes before, and the share of the way to the next one."""
    import tensorflow as tf

    first = tf.floor(places - 0.5)
    return tf.cast(first, tf.int32), places - 0.5 - first


def _within(taps, size: int):
    """Beyond the edge the last pixel goes on."""
    import tensorflow as tf

    return [(tf.clip_by_value(index, 0, size - 1), weight) for index, weight in taps]
