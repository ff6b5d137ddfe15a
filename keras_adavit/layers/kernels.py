"""Dense layer, GELU, layer normalisation and attention, in the form which each backend has a fast kernel for.

What they compute is what Keras' own compute. TensorFlow fuses product, bias and GELU where the product is one of
matrices and the bias a `BiasAdd`; torch fuses product and bias in `linear`; XLA, on JAX, fuses by itself.
"""

import keras
from keras import ops

MASKED = -3e4  # added to a score, makes its weight zero; finite in float16


@keras.saving.register_keras_serializable("keras_adavit")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` through `linear`."""

    def call(self, inputs, training=None):
        return linear(inputs, self.kernel, self.bias, self.activation)


@keras.saving.register_keras_serializable("keras_adavit")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis, in half the passes over memory on TensorFlow.

    It reads its input as it is, and rounds its output alone to the dtype of computation.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs):
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs)
        # Written so that ONNX Runtime recognises it as its own LayerNormalization.
        values = ops.cast(inputs, "float32")
        centered = values - ops.mean(values, axis=-1, keepdims=True)
        deviation = ops.sqrt(ops.mean(centered**2.0, axis=-1, keepdims=True) + self.epsilon)
        outputs = centered / deviation * ops.cast(self.gamma, "float32") + ops.cast(self.beta, "float32")
        return ops.cast(outputs, self.compute_dtype)


def linear(inputs, kernel, bias=None, activation=None):
    """activation(inputs·kernel + bias); in mixed precision the sum is not rounded before the bias is in it.

    Args:
        inputs: Tensor (..., C).
        kernel: Tensor (C, D).
        bias: Tensor (D,) or `None`.
        activation: Function of a tensor, or `None`.

    Returns:
        Tensor (..., D).
    """
    if keras.backend.backend() == "torch":
        import torch

        kernel, bias = ops.convert_to_tensor(kernel), None if bias is None else ops.convert_to_tensor(bias)
        outputs = torch.nn.functional.linear(inputs, kernel.T, bias)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.executing_eagerly() and inputs.dtype.size < 4:
            # A graph can fuse the operations below, and oneDNN does; eagerly each would round its result.
            parts = (None if part is None else tf.cast(part, tf.float32) for part in (inputs, kernel, bias))
            return tf.cast(linear(*parts, activation), inputs.dtype)
        flat = len(inputs.shape) == 2
        outputs = tf.matmul(inputs if flat else tf.reshape(inputs, (-1, ops.shape(kernel)[0])), kernel)
        outputs = outputs if bias is None else tf.nn.bias_add(outputs, bias)
        outputs = outputs if activation is None else activation(outputs)
        if flat:
            return outputs
        # Every size that is known stays known.
        return tf.reshape(outputs, (-1, *ops.shape(inputs)[1:-1], ops.shape(kernel)[1]))
    else:
        kernel = ops.convert_to_tensor(kernel)
        outputs = product(inputs, kernel) if inputs.dtype.itemsize < 4 else ops.matmul(inputs, kernel)
        outputs = ops.cast(outputs if bias is None else outputs + bias, inputs.dtype)
    return outputs if activation is None else activation(outputs)


@ops.custom_gradient
def product(inputs, kernel):
    """inputs·kernel (..., D) in float32, on JAX; the products of the gradient keep the precision of the operands."""
    import jax.numpy as jnp

    def gradient(upstream):
        upstream = upstream.astype(inputs.dtype)
        rows = inputs.reshape(-1, inputs.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
        return upstream @ kernel.T, rows[0].T @ rows[1]

    return jnp.matmul(inputs, kernel, preferred_element_type="float32"), gradient


def gelu(inputs):
    """The exact GELU, x·Φ(x)."""
    if keras.backend.backend() == "torch":
        return ops.gelu(inputs, approximate=False)
    # TensorFlow's own becomes `Erfc` in ONNX, which ONNX Runtime does not have, and is slower in eager mode. JAX's goes
    # through `erfc`, which takes longer.
    return 0.5 * inputs * (1.0 + ops.erf(inputs / 2.0**0.5))


def scaled_dot_product(query, key, value, mask=None, scale=None):
    """softmax(scale·q·k)·v, the softmax in float32.

    Args:
        query, key, value: Tensors (B, H, T, d).
        mask: Boolean tensor that broadcasts to (B, H, T, T), rows are queries, or `None`.
        scale: Factor of the scores; by default 1/√d.

    Returns:
        Tensor (B, H, T, d).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras' own goes through einsum, which takes half as long again. Product, scale and a mask that is added become
        # one kernel.
        scores = tf.matmul(query, tf.transpose(key, (0, 1, 3, 2))) * tf.cast(scale, query.dtype)
        if mask is not None:
            scores += tf.where(mask, tf.cast(0, scores.dtype), tf.cast(MASKED, scores.dtype))
        weights = tf.nn.softmax(tf.cast(scores, tf.float32))
        return tf.matmul(tf.cast(weights, value.dtype), value)
    if keras.backend.backend() == "jax" and on_cpu():
        # Keras' own takes three times as long. Dividing the output, not the weights, saves a pass over the scores.
        scores = ops.cast(ops.matmul(query * scale, ops.swapaxes(key, -1, -2)), "float32")
        if mask is not None:
            scores += ops.where(mask, 0.0, MASKED)  # a sum joins the kernel that follows, a choice does not
        weights = ops.exp(scores - ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True)))
        total = ops.sum(weights, axis=-1, keepdims=True)
        attended = ops.matmul(ops.cast(weights, value.dtype), value)
        return ops.cast(ops.cast(attended, "float32") / total, value.dtype)
    # A fused kernel may ignore a mask that differs between images.
    flash = None if mask is None else False
    by_token = (ops.transpose(part, (0, 2, 1, 3)) for part in (query, key, value))
    attended = ops.dot_product_attention(*by_token, mask=mask, scale=scale, flash_attention=flash)
    return ops.transpose(attended, (0, 2, 1, 3))


def on_cpu():
    """If JAX computes on CPUs."""
    import jax

    return jax.default_backend() == "cpu"
