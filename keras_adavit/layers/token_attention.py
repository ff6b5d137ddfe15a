"""Attention of the tokens-to-token stem: from wide unfolded patches to narrow tokens, in two variants.

Both narrow the width at once, so that the residual skips from the value instead of the input.
"""

import math

import keras
from keras import ops

from keras_adavit.kernels.dispatch import attention, gelu
from keras_adavit.layers.common import Dense, LayerNormalization
from keras_adavit.layers.dropout import Dropout

DROPOUT = 0.1  # of the performer, as published; the transformer has none
EPSILON = 1e-8  # keeps the performer's division finite; zero in float16, which is why the layer is float32


class TokenLayer(keras.layers.Layer):
    """What the two variants share: LN, attention with the value as skip, LN, an MLP of the same width.

    Args:
        width: Width E of the output tokens.
        layer_norm_epsilon: ε of the normalisations.
    """

    dropout = 0.0
    qkv_bias = True

    def __init__(self, width, layer_norm_epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.layer_norm_epsilon = layer_norm_epsilon

        def norm(name):
            return LayerNormalization(epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name=name)

        def dense(units, name, **options):
            return Dense(units, dtype=self.dtype_policy, name=name, **options)

        self.norm1 = norm("norm1")
        self.qkv = dense(3 * width, "qkv", use_bias=self.qkv_bias)
        self.projection = dense(width, "projection")
        self.norm2 = norm("norm2")
        self.expand = dense(width, "expand", activation=gelu)
        self.reduce = dense(width, "reduce")
        self.drop = Dropout(self.dropout, dtype=self.dtype_policy, name="drop")

    def build(self, input_shape):
        inner = (*input_shape[:-1], self.width)
        for layer in (self.norm1, self.qkv):
            layer.build(input_shape)
        for layer in (self.projection, self.norm2, self.expand, self.reduce, self.drop):
            layer.build(inner)

    def call(self, inputs, training=False):
        """Re-structures the tokens of an image.

        Args:
            inputs: Tensor (B, T, k²·C), unfolded patches.
            training: Whether the performer drops.

        Returns:
            Tensor (B, T, E).
        """
        attended, value = self.attend(self.qkv(self.norm1(inputs)), inputs.shape[-1])
        tokens = value + self.drop(self.projection(attended), training=training)
        hidden = self.expand(self.norm2(tokens))
        return tokens + self.drop(self.reduce(hidden), training=training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "layer_norm_epsilon": self.layer_norm_epsilon}


@keras.saving.register_keras_serializable("keras_adavit")
class TokenPerformer(TokenLayer):
    """Attention in linear time through positive random features (performer); always in float32.

    Args:
        width: Width E of the output tokens; the layer has E/2 random features, fixed.
        layer_norm_epsilon: ε of the normalisations.
    """

    dropout = DROPOUT

    def __init__(self, width, layer_norm_epsilon=1e-5, **kwargs):
        super().__init__(width, layer_norm_epsilon, **{**kwargs, "dtype": "float32"})

    def build(self, input_shape):
        super().build(input_shape)
        count = num_features(self.width)
        self.features = self.add_weight(
            shape=(count, self.width),
            initializer=keras.initializers.Orthogonal(gain=math.sqrt(count)),
            trainable=False,
            name="features",
        )

    def attend(self, qkv, input_width):
        key, query, value = ops.split(qkv, 3, axis=-1)  # in this order, as in the published weights
        return linear_attention(query, key, value, self.features), value


@keras.saving.register_keras_serializable("keras_adavit")
class TokenTransformer(TokenLayer):
    """Softmax attention with one head.

    Args:
        width: Width E of the output tokens.
        layer_norm_epsilon: ε of the normalisations.
    """

    qkv_bias = False

    def attend(self, qkv, input_width):
        query, key, value = ops.split(qkv[:, None], 3, axis=-1)  # (B, 1, T, E) each
        # The published models divide the scores by the root of the input's width, not of the query's.
        attended = attention(query, key, value, scale=input_width**-0.5)
        return attended[:, 0], value[:, 0]


def num_features(width):
    """Random features of a performer of this width."""
    return max(width // 2, 1)


def positive_features(inputs, features):
    """exp(w·x − |x|²/2)/√m, whose products approximate the exponential of x·y in expectation.

    Args:
        inputs: Tensor (B, T, E).
        features: Tensor (m, E), the directions w.

    Returns:
        Tensor (B, T, m), positive.
    """
    half_square = ops.sum(ops.square(inputs), axis=-1, keepdims=True) / 2
    return ops.exp(ops.matmul(inputs, ops.transpose(features)) - half_square) / math.sqrt(features.shape[0])


def linear_attention(query, key, value, features):
    """Attention with the softmax's kernel replaced by products of positive features: T·m·E instead of T²·E.

    Args:
        query, key, value: Tensors (B, T, E).
        features: Tensor (m, E).

    Returns:
        Tensor (B, T, E).
    """
    query, key = positive_features(query, features), positive_features(key, features)  # (B, T, m)
    values = ops.matmul(ops.transpose(key, (0, 2, 1)), value)  # (B, m, E)
    total = ops.matmul(query, ops.sum(key, axis=1)[..., None])  # (B, T, 1)
    return ops.matmul(query, values) / (total + EPSILON)
