"""The MLP of a block."""

import keras
from keras import ops

from keras_adavit.kernels.dispatch import gelu
from keras_adavit.layers.common import Dense


@keras.saving.register_keras_serializable("keras_adavit")
class GatedMLP(keras.layers.Layer):
    """Two linear layers with a GELU between; with full head gating a skipped head has zeros in some channels.

    Args:
        width: Width D of input and output.
        mlp_dim: Width of the hidden layer.
        num_heads: Heads H among which channels are divided.
        head_channels: Which channels: those of the `"input"`, or of the `"hidden"` layer before its GELU, as if weights
            and biases of the first layer were zero. H divides their number.
    """

    def __init__(self, width, mlp_dim, num_heads, head_channels="input", **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.mlp_dim = mlp_dim
        self.num_heads = num_heads
        self.head_channels = head_channels
        activation = gelu if head_channels == "input" else None  # else it comes after the zeros
        self.expand = Dense(mlp_dim, activation=activation, dtype=self.dtype_policy, name="expand")
        self.reduce = Dense(width, dtype=self.dtype_policy, name="reduce")

    def build(self, input_shape):
        self.expand.build(input_shape)
        self.reduce.build((*input_shape[:-1], self.mlp_dim))

    def call(self, inputs, head_keep=None):
        """Transforms each token.

        Args:
            inputs: Tensor (..., D), normalised.
            head_keep: Tensor of 0 and 1 that broadcasts to (..., H, 1), or `None`: all heads.

        Returns:
            Tensor (..., D).
        """
        if self.head_channels == "input":
            hidden = self.expand(self._silence(inputs, head_keep))
        else:
            hidden = gelu(self._silence(self.expand(inputs), head_keep))
        return self.reduce(hidden)

    def _silence(self, values, head_keep):
        """Zeros in the channels (..., C) of skipped heads."""
        if head_keep is None:
            return values
        *inner, channels = values.shape[1:]
        by_head = ops.reshape(values, (-1, *inner, self.num_heads, channels // self.num_heads))
        return ops.reshape(by_head * ops.cast(head_keep, values.dtype), (-1, *inner, channels))

    def compute_output_shape(self, input_shape, *args, **kwargs):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "mlp_dim": self.mlp_dim,
            "num_heads": self.num_heads,
            "head_channels": self.head_channels,
        }
