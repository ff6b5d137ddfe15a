"""Decisions from logits: Gumbel noise, threshold, straight-through gradient (paper, section 3.2)."""

import keras
from keras import ops

from keras_adavit.devices.dispatch import draw


def uniform_noise(shape, seed, low=0.0, high=1.0):
    """Float32 noise in [low, high), of a shape (B, ...); on several devices, this one's part of the batch's."""
    return draw(lambda images: keras.random.uniform((images, *shape[1:]), low, high, "float32", seed), shape[0])


def gumbel_noise(shape, seed):
    """The difference of two standard Gumbel variables, one for "use" and one for "skip".

    That difference is a standard logistic variable, so one uniform draw gives it.

    Args:
        shape: Shape (B, ...) of the noise.
        seed: A `keras.random.SeedGenerator`, or an integer.

    Returns:
        Float32 tensor of `shape`.
    """
    # 1e-6 keeps both logarithms finite in float32; it cuts the tails at ±13.8.
    uniform = uniform_noise(shape, seed, 1e-6, 1.0 - 1e-6)
    return ops.log(uniform) - ops.log1p(-uniform)


def straight_through(probability, threshold):
    """1 where `probability` exceeds `threshold`, else 0; the gradient is that of `probability`.

    Args:
        probability: Float tensor, in (0, 1).
        threshold: Float or scalar tensor, in (0, 1).

    Returns:
        Tensor of the shape and dtype of `probability`, exactly 0 or 1.
    """
    keep = ops.cast(probability > threshold, probability.dtype)
    # Grouped so that the difference is exactly zero and the decision stays exactly 0 or 1.
    return ops.stop_gradient(keep) + (probability - ops.stop_gradient(probability))


def gumbel_sigmoid(logits, noise, temperature, threshold):
    """Noisy decisions of training: 1[σ((logits + noise)/temperature) > threshold].

    Args:
        logits: Float tensor.
        noise: Tensor of the same shape, see `gumbel_noise`.
        temperature: Positive float or scalar tensor; high is smoother gradients.
        threshold: Float or scalar tensor, in (0, 1).

    Returns:
        Tensor of the shape of `logits`, exactly 0 or 1, with the gradient of the sigmoid.
    """
    return straight_through(ops.sigmoid((logits + noise) / temperature), threshold)
