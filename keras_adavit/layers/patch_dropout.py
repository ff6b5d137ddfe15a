"""Training on some of an image's patches."""

import keras
from keras import ops

from keras_adavit.gating.sampling import uniform_noise


@keras.saving.register_keras_serializable("keras_adavit")
class PatchDropout(keras.layers.Layer):
    """Leaves out patches in training, others in every image and step (Liu et al., "PatchDropout", WACV 2023).

    A model trained so does not come to rely on a patch for anything but what the patch shows, and trains faster.

    Args:
        rate: Share of the patches that is left out, in [0, 1).
        seed: Seed of the choice.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        pass

    def call(self, inputs, training=False):
        """Leaves patches out.

        Args:
            inputs: Tensor (B, T, D), class token first.
            training: Whether any are left out.

        Returns:
            Tensor (B, T', D), the class token and T' - 1 = round((1 - rate)·(T - 1)) patches, at least one, in their
            order; `inputs` where nothing is left out.
        """
        patches = inputs.shape[1] - 1
        kept = max(1, round((1 - self.rate) * patches))
        if not training or kept == patches:
            return inputs
        noise = uniform_noise((ops.shape(inputs)[0], patches), self.seed_generator)
        chosen = ops.sort(ops.argsort(noise, axis=1)[:, :kept], axis=1) + 1  # (B, T' - 1)
        chosen = ops.pad(chosen, ((0, 0), (1, 0)))  # (B, T')
        return ops.take_along_axis(inputs, chosen[:, :, None], axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
