"""The operations of RandAugment on colours and sharpness, pixel by pixel as Pillow has them.

Each is a pure function of one image, uint8 `(H, W, 3)` of known size, that gives another one. Numbers may be scalar
tensors. The operations that move pixels are in `affine.py`.
"""

from __future__ import annotations

# Shares of red, green and blue in the grey of ITU-R 601, over 65536. All sums stay below 2^24: exact in float32.
GREY = (19595.0, 38470.0, 7471.0)
SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))


def invert(image):
    """The negative."""
    return 255 - image


def auto_contrast(image):
    """Stretches each channel so that its darkest value becomes 0 and its brightest one 255."""
    import tensorflow as tf

    low, high = (tf.cast(bound(image, (0, 1)), tf.float64)[:, None] for bound in (tf.reduce_min, tf.reduce_max))
    levels = tf.range(256, dtype=tf.float64)
    scale = tf.math.divide_no_nan(tf.constant(255, tf.float64), high - low)
    return _look_up(image, tf.where(high > low, levels * scale - low * scale, levels))


def equalize(image):
    """Maps the levels of each channel so that all are about as frequent."""
    import tensorflow as tf

    # (3, 256)
    counts = tf.reshape(
        tf.math.bincount(tf.reshape(_channel_levels(image), (-1,)), minlength=768, maxlength=768), (3, 256)
    )
    levels = tf.range(256)
    last = tf.reduce_max(tf.where(counts > 0, levels, 0), 1)
    step = (tf.reduce_sum(counts, 1) - tf.gather(counts, last, batch_dims=1))[:, None] // 255
    below = tf.cumsum(counts, 1, exclusive=True)
    return _look_up(image, tf.where(step > 0, (step // 2 + below) // tf.maximum(step, 1), levels))


def posterize(image, bits):
    """Keeps the highest `bits` of each value, an int32 in 0..8."""
    import tensorflow as tf

    mask = tf.bitwise.left_shift(0xFF, 8 - tf.cast(bits, tf.int32)) & 0xFF
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image, threshold):
    """Inverts the values that are at least `threshold`, an int32 in 0..256."""
    import tensorflow as tf

    levels = tf.range(256)
    return _look_up(image, tf.where(levels < threshold, levels, 255 - levels))


def solarize_add(image, addend):
    """Adds `addend`, an int32 in 0..128, to the values below 128."""
    import tensorflow as tf

    levels = tf.range(256)
    return _look_up(image, tf.where(levels < 128, levels + addend, levels))


def color(image, factor):
    """Saturation: 0 is grey, 1 the image as it is."""
    return _blend(_grey(image), image, factor)


def contrast(image, factor):
    """Contrast: 0 is the mean grey everywhere, 1 the image as it is."""
    import tensorflow as tf

    return _blend(tf.floor(tf.reduce_mean(_grey(image)) + 0.5), image, factor)


def brightness(image, factor):
    """Brightness: 0 is black, 1 the image as it is."""
    return _blend(0.0, image, factor)


def sharpness(image, factor):
    """Sharpness: 0 is blurred, 1 the image as it is; its outermost pixels stay."""
    import tensorflow as tf

    if min(image.shape[:2]) < 3:
        return image
    pixels = tf.cast(image, tf.float32)
    kernel = tf.tile(tf.constant(SMOOTH, tf.float32)[:, :, None, None], (1, 1, 3, 1))
    smooth = tf.floor(tf.nn.depthwise_conv2d(pixels[None], kernel, (1, 1, 1, 1), "VALID")[0] / 13 + 0.5)
    inner = ((1, 1), (1, 1), (0, 0))
    return _blend(pixels + tf.pad(smooth - pixels[1:-1, 1:-1], inner), image, factor)


def _blend(start, image, factor):
    """From `start`, floats, at the factor 0 to the image at 1 and beyond, cut off and not rounded, as Pillow does."""
    import tensorflow as tf

    blended = start + factor * (tf.cast(image, tf.float32) - start)
    return tf.cast(tf.clip_by_value(blended, 0, 255), tf.uint8)


def _grey(image):
    """Grey in whole numbers 0..255, float32 `(H, W, 1)`."""
    import tensorflow as tf

    weighed = tf.linalg.matmul(tf.cast(image, tf.float32), tf.constant(GREY)[:, None])
    return tf.floor((weighed + 32768) / 65536)


def _look_up(image, tables):
    """Replaces each value by that of a table, `(256,)` or one a channel `(3, 256)`, clipped to 0..255."""
    import tensorflow as tf

    indices = tf.cast(image, tf.int32) if len(tables.shape) == 1 else _channel_levels(image)
    values = tf.cast(tf.clip_by_value(tf.cast(tables, tf.int32), 0, 255), tf.uint8)
    return tf.gather(tf.reshape(values, (-1,)), indices)


def _channel_levels(image):
    """Values as int32, those of the second channel from 256 on, those of the third from 512 on."""
    import tensorflow as tf

    return tf.cast(image, tf.int32) + tf.constant([0, 256, 512])
