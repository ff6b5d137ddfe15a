"""Kernels on TensorFlow, which fuses a product of matrices with a `BiasAdd` and what follows; see `dispatch.py`."""

import tensorflow as tf
from keras import ops

# Added to a score, makes its weight vanish next to the largest. Much less would make it a denormal number, with which
# some CPUs are slow in ONNX Runtime.
MASKED = -50.0


def linear(inputs, kernel, bias=None, activation=None):
    if tf.executing_eagerly() and inputs.dtype.size < 4:
        # A graph can fuse the operations below, and oneDNN does; eagerly each would round its result.
        parts = (None if part is None else tf.cast(part, tf.float32) for part in (inputs, kernel, bias))
        return tf.cast(linear(*parts, activation), inputs.dtype)
    is_flat = len(inputs.shape) == 2
    outputs = tf.matmul(inputs if is_flat else tf.reshape(inputs, (-1, ops.shape(kernel)[0])), kernel)
    outputs = outputs if bias is None else tf.nn.bias_add(outputs, bias)
    outputs = outputs if activation is None else activation(outputs)
    if is_flat:
        return outputs
    return tf.reshape(outputs, (-1, *ops.shape(inputs)[1:-1], ops.shape(kernel)[1]))  # known sizes stay known


def gelu(inputs):
    # TensorFlow's own becomes `Erfc` in ONNX, which ONNX Runtime does not have, and is slower in eager mode.
    return 0.5 * inputs * (1.0 + tf.math.erf(inputs / 2.0**0.5))


def layer_norm(inputs, gamma, beta, epsilon):
    # Half the passes over memory of Keras' own, and ONNX Runtime recognises it as its LayerNormalization.
    values = tf.cast(inputs, tf.float32)
    centered = values - tf.reduce_mean(values, axis=-1, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(centered**2.0, axis=-1, keepdims=True) + epsilon)
    return centered / deviation * tf.cast(gamma, tf.float32) + tf.cast(beta, tf.float32)


def attention(query, key, value, mask=None, scale=None):
    # Keras' own goes through einsum, which takes half as long again. Product, scale and an added mask fuse.
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = tf.matmul(query, tf.transpose(key, (0, 1, 3, 2))) * tf.cast(scale, query.dtype)
    if mask is not None:
        is_bool = mask.dtype == tf.bool
        added = tf.where(mask, tf.cast(0, scores.dtype), tf.cast(MASKED, scores.dtype)) if is_bool else mask
        scores += tf.cast(added, scores.dtype)
    weights = tf.nn.softmax(tf.cast(scores, tf.float32))
    return tf.matmul(tf.cast(weights, value.dtype), value)


def gradient_barrier(tensor):
    return tensor


def gather(table, indices, axis=0):
    # `keras.ops.take` looks for negative indices first, a pass more.
    return tf.gather(table, indices, axis=axis)
