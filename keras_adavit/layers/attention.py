"""Multi-head self-attention that can be told which tokens and heads to use."""

import keras
from keras import ops

from keras_adavit.kernels.dispatch import attention
from keras_adavit.layers.common import Dense


@keras.saving.register_keras_serializable("keras_adavit")
class GatedAttention(keras.layers.Layer):
    """Self-attention over kept tokens with kept heads (paper, sections 3.1 and 3.3).

    Kept tokens attend to kept tokens; a skipped one attends to itself. With full head gating a skipped head's query,
    key, value and output are zero; with partial head gating its attention is the identity.

    Args:
        width: Width D of input and output.
        num_heads: Heads H; must divide `width`.
        qkv_bias: Whether query, key and value have biases.
        partial_heads: Whether a skipped head passes its values through instead of giving zeros.
        mask_after_softmax: Whether training masks after the softmax: a skipped token then attends to nothing.
        mask_gradient: Whether training passes a gradient through the mask to the decisions about tokens.
        key_gradient: Whether it passes one through what each token adds to those that attend to it, kept or skipped.
    """

    def __init__(
        self,
        width,
        num_heads,
        qkv_bias=True,
        partial_heads=False,
        mask_after_softmax=False,
        mask_gradient=False,
        key_gradient=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width = width
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias
        self.partial_heads = partial_heads
        self.mask_after_softmax = mask_after_softmax
        self.mask_gradient = mask_gradient
        self.key_gradient = key_gradient
        self.qkv = Dense(3 * width, use_bias=qkv_bias, dtype=self.dtype_policy, name="qkv")
        self.projection = Dense(width, dtype=self.dtype_policy, name="projection")

    def build(self, input_shape):
        self.qkv.build(input_shape)
        self.projection.build((*input_shape[:-1], self.width))

    def call(self, inputs, token_keep=None, head_keep=None, training=False, details=(), token_size=None):
        """Attends.

        Args:
            inputs: Tensor (B, T, D), normalised.
            token_keep: Tensor (B, T) of 0 and 1, or `None`: all tokens. No gradient flows into it without
                `mask_gradient` or `key_gradient`.
            head_keep: Tensor (B, H) of 0 and 1, or `None`: all heads.
            training: Whether `mask_after_softmax`, `mask_gradient` and `key_gradient` act.
            details: Names of what is returned too: `class_attention`, see `class_token_attention`, and `keys`.
            token_size: Tensor (B, T), how many tokens each stands for, or `None`: one. A token attends to another in
                proportion to it. Only without `token_keep`.

        Returns:
            Tensor (B, T, D), not yet multiplied by `token_keep`; with `details` a pair of it and a dict:
            `class_attention` float32 (B, H, T), `keys` (B, H, T, D/H).
        """
        num_tokens = inputs.shape[1]
        qkv = ops.reshape(self.qkv(inputs), (-1, num_tokens, 3, self.num_heads, self.width // self.num_heads))
        qkv = ops.transpose(qkv, (2, 0, 3, 1, 4))  # (3, B, H, T, D/H)
        if head_keep is not None:
            head_keep = ops.cast(head_keep, qkv.dtype)[:, :, None, None]  # (B, H, 1, 1)
            if not self.partial_heads:
                qkv = qkv * head_keep
        # Not by index: each gradient would be a whole `qkv` of zeros but for a third.
        query, key, value = ops.unstack(qkv, 3)  # (B, H, T, D/H) each
        if training and token_keep is not None and self.key_gradient:
            attended = attention_weighing_keys(query, key, value, token_keep)
        elif training and token_keep is not None and (self.mask_after_softmax or self.mask_gradient):
            keep = token_keep if self.mask_gradient else ops.stop_gradient(token_keep)
            attended = attention_with_gradient(query, key, value, keep, self.mask_after_softmax)
        else:
            mask = None if token_keep is None else attention_mask(token_keep)[:, None]  # (B, 1, T, T)
            mask = mask if token_size is None else log_size(token_size)[:, None, None]  # (B, 1, 1, T)
            attended = attention(query, key, value, mask)
        if head_keep is not None:
            skipped = value * (1 - head_keep) if self.partial_heads else 0
            attended = attended * head_keep + skipped
        attended = ops.transpose(attended, (0, 2, 1, 3))  # (B, T, H, D/H)
        outputs = self.projection(ops.reshape(attended, (-1, num_tokens, self.width)))
        found = {}
        if "class_attention" in details:
            found["class_attention"] = class_token_attention(query[:, :, 0], key, token_keep, token_size)
        if "keys" in details:
            found["keys"] = key
        return (outputs, found) if details else outputs

    def compute_output_shape(self, input_shape, *args, **kwargs):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "num_heads": self.num_heads,
            "qkv_bias": self.qkv_bias,
            "partial_heads": self.partial_heads,
            "mask_after_softmax": self.mask_after_softmax,
            "mask_gradient": self.mask_gradient,
            "key_gradient": self.key_gradient,
        }


def attention_mask(token_keep):
    """Who attends to whom: kept to kept, and every token to itself.

    Args:
        token_keep: Tensor (B, T) of 0 and 1.

    Returns:
        Boolean tensor (B, T, T), rows are queries.
    """
    keep = ops.stop_gradient(token_keep) > 0.5
    return (keep[:, :, None] & keep[:, None, :]) | ops.eye(keep.shape[1], dtype="bool")


def attention_with_gradient(query, key, value, token_keep, after_softmax):
    """Attention as of `attention_mask`, with a gradient to the decisions; or the same masked after the softmax.

    Where and how the gradient flows is as in the published code: before the softmax it comes through the products of
    scores and decisions, of kept pairs alone.

    Args:
        query, key, value: Tensors (B, H, T, d).
        token_keep: Tensor (B, T) of 0 and 1.
        after_softmax: Whether weights are masked and normalised again, in place of scores. A skipped token then gives
            zeros.

    Returns:
        Tensor (B, H, T, d).
    """
    scores = ops.cast(ops.matmul(query * key.shape[-1] ** -0.5, ops.transpose(key, (0, 1, 3, 2))), "float32")
    keep = ops.cast(token_keep, "float32")
    pairs = (keep[:, :, None] * keep[:, None, :])[:, None]  # (B, 1, T, T)
    if after_softmax:
        weights = ops.softmax(scores, axis=-1) * pairs
        kept = ops.where(pairs > 0.5, weights, 0.0)  # the same, but skipped tokens do not pull at the sum
        weights = weights / ops.maximum(ops.sum(kept, axis=-1, keepdims=True), 1e-12)
    else:
        scores = ops.where(attention_mask(token_keep)[:, None], scores * pairs, -1e9)
        weights = ops.softmax(scores, axis=-1)
    return ops.matmul(ops.cast(weights, value.dtype), value)


def attention_weighing_keys(query, key, value, token_keep):
    """Attention in which each key weighs as its token's decision, 1 or 0, and the token itself always 1.

    For kept tokens the result is that of `attention_mask`. A skipped one attends to the kept ones too: what it would
    take from them if it were kept is what its decision has to know. A key that weighs 0 gives a gradient as well: what
    others would gain by attending to it ("DynamicViT", Rao et al. 2021, section 3.3).

    Args:
        query, key, value: Tensors (B, H, T, d).
        token_keep: Tensor (B, T) of 0 and 1.

    Returns:
        Tensor (B, H, T, d).
    """
    scores = ops.cast(ops.matmul(query * key.shape[-1] ** -0.5, ops.transpose(key, (0, 1, 3, 2))), "float32")
    itself = ops.eye(scores.shape[-1], dtype="float32")
    keep = ops.cast(token_keep, "float32")[:, None, None, :] * (1.0 - itself) + itself  # (B, 1, T, T)
    # The largest of all scores, skipped ones too, whose weights must not overflow before they are multiplied by zero.
    weights = ops.exp(scores - ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))) * keep
    weights = weights / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1e-12)
    return ops.matmul(ops.cast(weights, value.dtype), value)


def log_size(token_size):
    """What proportional attention adds to the scores of tokens (B, T) of these sizes, float32."""
    return ops.log(ops.cast(token_size, "float32"))


def class_token_attention(query, key, token_keep=None, token_size=None):
    """How much the class token attends to each token; of a skipped head the numbers mean nothing.

    Args:
        query: The class token's queries (B, H, D/H).
        key: Keys (B, H, T, D/H).
        token_keep: Tensor (B, T) of 0 and 1, the class token kept, or `None`: all tokens. No gradient flows into it.
        token_size: Tensor (B, T), see `GatedAttention.call`, or `None`.

    Returns:
        Float32 tensor (B, H, T), rows sum to 1, 0 at skipped tokens.
    """
    query, key = ops.cast(query, "float32"), ops.cast(key, "float32")
    scores = ops.einsum("bhd,bhtd->bht", query, key) / key.shape[-1] ** 0.5
    if token_keep is not None:
        keep = ops.stop_gradient(token_keep)[:, None] > 0.5  # (B, 1, T)
        scores = ops.where(keep, scores, -1e9)
    if token_size is not None:
        scores = scores + log_size(token_size)[:, None]
    return ops.softmax(scores, axis=-1)
