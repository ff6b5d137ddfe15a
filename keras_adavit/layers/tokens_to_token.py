"""The tokens-to-token stem: overlapping patches, re-structured twice by attention on the way to tokens."""

import keras
from keras import ops

from keras_adavit.layers.common import Dense
from keras_adavit.layers.token_attention import TokenPerformer, TokenTransformer

TOKEN_LAYERS = {"t2t_performer": TokenPerformer, "t2t_transformer": TokenTransformer}
# Side, stride and padding of the three soft splits; together they divide the image's side by 16.
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
TOTAL_STRIDE = 16


@keras.saving.register_keras_serializable("keras_adavit")
class TokensToToken(keras.layers.Layer):
    """Cuts an image into overlapping patches three times, with attention over them between (T2T-ViT, section 3.1).

    Args:
        kind: `"t2t_performer"`: attention in linear time by random features; `"t2t_transformer"`: softmax attention.
        token_width: Width E of the tokens between the cuts.
        width: Width D of the tokens at the end.
        layer_norm_epsilon: ε of the normalisations.
    """

    def __init__(self, kind, token_width, width, layer_norm_epsilon=1e-5, **kwargs):
        super().__init__(autocast=False, **kwargs)  # the performer and the last layer compute in float32
        self.kind = kind
        self.token_width = token_width
        self.width = width
        self.layer_norm_epsilon = layer_norm_epsilon
        self.attentions = [
            TOKEN_LAYERS[kind](token_width, layer_norm_epsilon, dtype=self.dtype_policy, name=f"attention{number}")
            for number in (1, 2)
        ]
        self.project = Dense(width, dtype=self.variable_dtype, name="project")

    def build(self, input_shape):
        channels = input_shape[-1]
        for (size, _, _), attention in zip(SPLITS, self.attentions, strict=False):
            attention.build((None, None, size**2 * channels))
            channels = self.token_width
        self.project.build((None, None, SPLITS[-1][0] ** 2 * channels))

    def call(self, images, training=False):
        """Embeds.

        Args:
            images: Tensor (B, S, S, C); 16 divides S.
            training: Whether the performer drops.

        Returns:
            Tensor (B, (S/16)², D), tokens in reading order.
        """
        grid = images
        for split, attention in zip(SPLITS, self.attentions, strict=False):
            side = grid.shape[1] // split[1]
            tokens = attention(soft_split(grid, *split), training=training)  # (B, side², E)
            grid = ops.reshape(tokens, (-1, side, side, self.token_width))
        return self.project(soft_split(grid, *SPLITS[-1]))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, (height // TOTAL_STRIDE) * (width // TOTAL_STRIDE), self.width

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "token_width": self.token_width,
            "width": self.width,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


def soft_split(grid, size, stride, padding):
    """Overlapping square patches, each flattened in the order of an image: rows, columns, channels.

    The grid is cut into tiles of `stride` × `stride`; as a patch is smaller than two tiles, it begins with a tile and
    ends with a part of the next. So a reshape and two concatenations do it on every backend, where the built-in
    extraction is a convolution on some, slower and not exact on a GPU, or lacks a free batch size.

    Args:
        grid: Tensor (B, S, S, C); `stride` divides S.
        size: Side of a patch, from `stride` to `2 * stride`.
        stride: Distance of neighbouring patches.
        padding: Zeros before the first row and column, less than `stride`; behind the last as many as are needed.

    Returns:
        Tensor (B, (S/stride)², size²·C), patches in reading order.
    """
    channels, side, rest = grid.shape[3], grid.shape[1] // stride, size - stride
    before_after = (padding, stride - padding)
    grid = ops.pad(grid, ((0, 0), before_after, before_after, (0, 0)))
    tiles = ops.reshape(grid, (-1, side + 1, stride, side + 1, stride, channels))
    tiles = ops.transpose(tiles, (0, 1, 3, 2, 4, 5))
    tiles = ops.concatenate([tiles[:, :-1], tiles[:, 1:, :, :rest]], axis=3)
    tiles = ops.concatenate([tiles[:, :, :-1], tiles[:, :, 1:, :, :rest]], axis=4)  # (B, side, side, size, size, C)
    return ops.reshape(tiles, (-1, side**2, size**2 * channels))
