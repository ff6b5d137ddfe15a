"""The convolutional stem: a few 3×3 convolutions of stride 2 in the place of one large patch."""

import keras
from keras import ops

from keras_adavit.layers.common import Dense, LayerNormalization
from keras_adavit.macs import conv_stem_widths


@keras.saving.register_keras_serializable("keras_adavit")
class ConvStem(keras.layers.Layer):
    """Embeds an image by convolutions ("Early convolutions help transformers see better", Xiao et al. 2021).

    3×3 convolutions of stride 2, each with a normalisation and ReLU after it, halve the side until a position is a
    patch; a 1×1 convolution ends it. The widths double from layer to layer, see `conv_stem_widths`.

    The paper normalises over the batch. Here it is a layer normalisation over the channels of each position, as in
    ConvNeXt: it needs no running statistics, which averaged weights, accumulated gradients and the other batches of
    inference would each have to respect, and an image's result does not depend on its neighbours in the batch.

    Args:
        patch_size: Pixels between two tokens: a power of two from 2.
        width: Width D of a token, 16 or more.
        layer_norm_epsilon: ε of the normalisations.
    """

    def __init__(self, patch_size, width, layer_norm_epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.width = width
        self.layer_norm_epsilon = layer_norm_epsilon
        self.widths = conv_stem_widths(patch_size, width)
        dtype = self.dtype_policy
        self.convolutions = [
            # Images are channels last here, whatever Keras is configured to.
            keras.layers.Conv2D(
                channels, 3, 2, "same", data_format="channels_last", dtype=dtype, name=f"convolution{number}"
            )
            for number, channels in enumerate(self.widths, 1)
        ]
        self.norms = [
            LayerNormalization(epsilon=layer_norm_epsilon, dtype=dtype, name=f"norm{number}")
            for number in range(1, len(self.widths) + 1)
        ]
        self.projection = Dense(width, dtype=dtype, name="projection")  # a 1×1 convolution

    def build(self, input_shape):
        channels = input_shape[-1]
        for width, convolution, norm in zip(self.widths, self.convolutions, self.norms, strict=True):
            convolution.build((None, None, None, channels))
            norm.build((None, None, None, width))
            channels = width
        self.projection.build((None, None, channels))

    def call(self, images):
        """Embeds.

        Args:
            images: Tensor (B, S, S, C); the patch size divides S.

        Returns:
            Tensor (B, (S/patch)², D), tokens in reading order.
        """
        grid = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            grid = ops.relu(norm(convolution(grid)))
        _, height, width, channels = grid.shape
        return self.projection(ops.reshape(grid, (-1, height * width, channels)))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, (height // self.patch_size) * (width // self.patch_size), self.width

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "width": self.width,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
