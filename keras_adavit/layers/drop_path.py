"""Drop-path: whole images skip a residual branch."""

import keras
from keras import ops

from keras_adavit.gating.sampling import uniform_noise


@keras.saving.register_keras_serializable("keras_adavit")
class DropPath(keras.layers.Layer):
    """In training, all zeros for some images, while those of the others are scaled up.

    Args:
        rate: Probability in [0, 1) of an image to be dropped.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs, training=False):
        """Drops of inputs (B, T, D); the outputs are of the same shape."""
        if not training or not self.rate:
            return inputs
        noise = uniform_noise((ops.shape(inputs)[0], 1, 1), self.seed_generator)
        return ops.where(noise >= self.rate, inputs / (1 - self.rate), ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
