"""The MLP of a block."""

import keras
from keras import ops

from keras_adavit.kernels.dispatch import gelu
from keras_adavit.layers.common import Dense


@keras.saving.register_keras_serializable("keras_adavit")
class GatedMLP(keras.layers.Layer):
    """Two linear layers with a GELU between; with full head gating a skipped head's input channels are zero.

    Args:
        width: Width D of input and output.
        mlp_dim: Width of the hidden layer.
        num_heads: Heads H among which the input's channels are divided.
    """

    def __init__(self, width, mlp_dim, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.mlp_dim = mlp_dim
        self.num_heads = num_heads
        self.expand = Dense(mlp_dim, activation=gelu, dtype=self.dtype_policy, name="expand")
        self.reduce = Dense(width, dtype=self.dtype_policy, name="reduce")

    def build(self, input_shape):
        self.expand.build(input_shape)
        self.reduce.build((*input_shape[:-1], self.mlp_dim))

    def call(self, inputs, head_keep=None):
        """Transforms each token.

        Args:
            inputs: Tensor (B, T, D), normalised.
            head_keep: Tensor (B, H) of 0 and 1, or `None`: all channels enter.

        Returns:
            Tensor (B, T, D).
        """
        if head_keep is not None:
            channels = ops.repeat(ops.cast(head_keep, inputs.dtype), self.width // self.num_heads, axis=1)
            inputs = inputs * channels[:, None, :]  # (B, T, D)
        return self.reduce(self.expand(inputs))

    def compute_output_shape(self, input_shape, *args, **kwargs):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "width": self.width, "mlp_dim": self.mlp_dim, "num_heads": self.num_heads}
