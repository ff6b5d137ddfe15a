"""Dropout, of numbers or of whole images, that draws the same for a batch however many devices share it."""

import keras
from keras import ops

from keras_adavit.gating.sampling import uniform_noise


@keras.saving.register_keras_serializable("keras_adavit")
class Dropout(keras.layers.Layer):
    """In training, zeros in some places; what stays is scaled up, so that the mean stays.

    Args:
        rate: Probability in [0, 1) of a zero.
        whole_images: Whether all of an image is dropped or stays, as drop-path does with a residual branch.
    """

    def __init__(self, rate, whole_images=False, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.whole_images = whole_images
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def call(self, inputs, training=False):
        """Drops of inputs (B, T, D); outputs have their shape and dtype."""
        if not training or not self.rate:
            return inputs
        shape = ops.shape(inputs)
        noise = uniform_noise((shape[0], 1, 1) if self.whole_images else shape, self.seed_generator)
        return ops.where(noise >= self.rate, inputs / (1 - self.rate), ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "whole_images": self.whole_images}
