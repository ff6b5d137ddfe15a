"""`Dense` and `LayerNormalization` as of Keras, through the kernels of each backend."""

import keras
from keras import ops

from keras_adavit.kernels.dispatch import layer_norm, linear


@keras.saving.register_keras_serializable("keras_adavit")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` through the backend's `linear`."""

    def call(self, inputs, training=None):
        return linear(inputs, self.kernel, self.bias, self.activation)


@keras.saving.register_keras_serializable("keras_adavit")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis, which rounds its output, not its input."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs):
        return ops.cast(layer_norm(inputs, self.gamma, self.beta, self.epsilon), self.compute_dtype)
