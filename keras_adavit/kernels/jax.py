"""Kernels on JAX, where XLA fuses; see `dispatch.py`."""

import jax
import jax.numpy as jnp
from keras import ops

MASKED = -3e4  # added to a score, makes its weight zero; finite in float16


def linear(inputs, kernel, bias=None, activation=None):
    kernel = ops.convert_to_tensor(kernel)
    outputs = product(inputs, kernel) if inputs.dtype.itemsize < 4 else jnp.matmul(inputs, kernel)
    outputs = outputs if bias is None else outputs + ops.convert_to_tensor(bias)
    outputs = outputs.astype(inputs.dtype)
    return outputs if activation is None else activation(outputs)


@ops.custom_gradient
def product(inputs, kernel):
    """inputs·kernel (..., D) in float32; the products of the gradient keep the precision of the operands."""

    def gradient(upstream):
        upstream = upstream.astype(inputs.dtype)
        rows = inputs.reshape(-1, inputs.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
        return upstream @ kernel.T, rows[0].T @ rows[1]

    return jnp.matmul(inputs, kernel, preferred_element_type="float32"), gradient


def gelu(inputs):
    # JAX's own goes through `erfc`, which takes longer.
    return 0.5 * inputs * (1.0 + jax.lax.erf(inputs / 2.0**0.5))


def layer_norm(inputs, gamma, beta, epsilon):
    return ops.layer_normalization(inputs, gamma, beta, axis=-1, epsilon=epsilon)


def attention(query, key, value, mask=None, scale=None):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if not on_cpu():
        # A fused kernel may ignore a mask that differs between images.
        flash = None if mask is None else False
        by_token = (part.swapaxes(1, 2) for part in (query, key, value))
        kind = "mask" if mask is None or mask.dtype == bool else "bias"
        attended = ops.dot_product_attention(*by_token, **{kind: mask}, scale=scale, flash_attention=flash)
        return attended.swapaxes(1, 2)
    # Keras' own takes three times as long. Dividing the output, not the weights, saves a pass over the scores.
    scores = jnp.matmul(query * scale, key.swapaxes(-1, -2)).astype("float32")
    if mask is not None:
        # A sum joins the kernel that follows, a choice does not.
        scores += jnp.where(mask, 0.0, MASKED) if mask.dtype == bool else mask
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    attended = jnp.matmul(weights.astype(value.dtype), value)
    return (attended.astype("float32") / total).astype(value.dtype)


def on_cpu():
    """Whether JAX computes on CPUs."""
    return jax.default_backend() == "cpu"


@jax.custom_vjp
def gradient_barrier(tensor):
    return tensor


def settle_gradient(_, gradient):
    """The gradient, behind a condition that holds for all of any use, and that XLA does not look into.

    On CPUs it would fuse the sum of a residual stream's gradients, over all later blocks, into each kernel that reads
    it: a step of a dense model takes twice its time. An `optimization_barrier` is gone before it fuses.
    """
    if not on_cpu():
        return (gradient,)
    usable = jnp.isfinite(gradient[(0,) * gradient.ndim])
    return (jax.lax.cond(usable, lambda gradient: gradient, lambda gradient: gradient * jnp.nan, gradient),)


gradient_barrier.defvjp(lambda tensor: (tensor, None), settle_gradient)


def gather(table, indices, axis=0):
    return table.at[(slice(None),) * axis + (indices,)].get(mode="clip")
