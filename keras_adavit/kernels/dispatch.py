"""The kernels of the backend that Keras runs on; a new backend is one more module and one more branch.

- `linear(inputs, kernel, bias=None, activation=None)`: activation(inputs·kernel + bias) of inputs (..., C), kernel
  (C, D), bias (D,). In mixed precision the sum is not rounded before the bias is in it.
- `gelu(inputs)`: the exact GELU, x·Φ(x).
- `layer_norm(inputs, gamma, beta, epsilon)`: normalisation over the last axis, computed in float32 at least.
- `attention(query, key, value, mask=None, scale=None)`: softmax(scale·q·k)·v of tensors (B, H, T, d), the softmax in
  float32. `mask` broadcasts to (B, H, T, T), rows are queries; it is boolean, or numbers that are added to the scores.
  `scale` is 1/√d by default.
- `gradient_barrier(tensor)`: the tensor itself, whose gradient is computed once and not by each that reads it.
- `gather(table, indices, axis=0)`: what lies in `table` at integer `indices` of any shape along an axis.
"""

import keras

from keras_adavit.errors import InputError

backend = keras.backend.backend()
if backend == "tensorflow":
    from keras_adavit.kernels.tensorflow import attention, gather, gelu, gradient_barrier, layer_norm, linear
elif backend == "jax":
    from keras_adavit.kernels.jax import attention, gather, gelu, gradient_barrier, layer_norm, linear
elif backend == "torch":
    from keras_adavit.kernels.torch import attention, gather, gelu, gradient_barrier, layer_norm, linear
else:
    raise InputError(f"`KERAS_BACKEND` must be 'tensorflow', 'jax' or 'torch'. Received: {backend!r}")

__all__ = ["attention", "gather", "gelu", "gradient_barrier", "layer_norm", "linear"]
