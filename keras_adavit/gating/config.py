"""Which parts of a model are gated, and how."""

import dataclasses
from typing import Literal

import keras

from keras_adavit.errors import InputError
from keras_adavit.settings import FiniteFloat, NonNegativeInt, PositiveFloat, Threshold, settings


@keras.saving.register_keras_serializable("keras_adavit")
@settings
class GateConfig:
    """Which parts of a vision transformer are gated (paper, section 3).

    ```python
    gates = ka.GateConfig(heads=None, first_gated_block=2)  # patches, and the sub-layers from block 2 on
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(64, 16, 96, 4, 3, gates=gates), num_classes=10)
    ```

    Args:
        tokens: Gate patch tokens; the class token is always used.
        heads: `"full"`: a skipped head's channels are zero in attention and in the MLP; `"partial"`: a skipped head
            passes its values through, the MLP is untouched; `None`: heads are not gated.
        blocks: Gate each block's two sub-layers, attention and MLP.
        gate_mlp_tokens: A skipped token skips the MLP too, not attention alone.
        first_gated_block: First block whose heads and sub-layers are gated.
        first_token_gated_block: First block whose tokens are gated.
        temperature: τ > 0 of the noisy sigmoid in training. Evaluation uses none.
        token_threshold: A token is used if its probability exceeds this, in (0, 1).
        head_threshold: The same of a head.
        block_threshold: The same of a sub-layer.
        normalize_policy_input: Head and block gates read the class token through a layer normalisation of their own.
        mlp_heads: Which channels of a skipped head are zero in the MLP: those of its `"input"`, or those of its
            `"hidden"` layer, which the heads share equally; `"hidden"` needs `heads="full"`.
        mask_after_softmax: In training, what a token attends to is masked after the softmax and normalised again, so
            that a skipped token attends to nothing, not to itself. Evaluation always masks before the softmax.
        attention_gradient: The decisions about tokens get a gradient through the attention mask too.
        key_gradient: They get one through what each token adds to those that attend to it, kept or skipped, as in
            DynamicViT: a patch is then kept for what others learn from it, not for its own sake alone. Not with
            `attention_gradient` or `mask_after_softmax`, which the published code has in its place.
        mlp_token_gradient: They get one through what the MLP adds to kept tokens, as through what attention adds.
        token_context: A token gate reads the class token besides the token itself, so that an image may keep more
            patches than another.
        follow_budget: Each gate learns how fast it opens as the budget grows: training draws a budget at every step,
            see `macs_spread` of `BudgetLoss`, and `calibrate` opens and closes the gates at the rates that were
            learned.
        initial_bias: Bias of new gates. At 3 they keep nearly everything: training starts from the dense model's
            function and closes what the budget asks for. At 0, as published, training starts with 12 % of the patches
            and half of the heads and sub-layers.

    Raises:
        InputError: If an argument is outside its range, or nothing is gated.
    """

    tokens: bool = True
    heads: Literal["full", "partial"] | None = "full"
    blocks: bool = True
    gate_mlp_tokens: bool = True
    first_gated_block: NonNegativeInt = 1
    first_token_gated_block: NonNegativeInt = 0
    temperature: PositiveFloat = 5.0
    token_threshold: Threshold = 0.6
    head_threshold: Threshold = 0.5
    block_threshold: Threshold = 0.5
    normalize_policy_input: bool = False
    mlp_heads: Literal["input", "hidden"] = "input"
    mask_after_softmax: bool = False
    attention_gradient: bool = False
    key_gradient: bool = False
    mlp_token_gradient: bool = True
    token_context: bool = False
    follow_budget: bool = False
    initial_bias: FiniteFloat = 3.0

    def __post_init__(self):
        if not (self.tokens or self.heads or self.blocks):
            raise InputError(
                "`GateConfig` must gate at least one of `tokens`, `heads` and `blocks`; "
                "for a dense model give `gates=None`. Received: all three off"
            )
        if self.key_gradient and not self.tokens:
            raise InputError("`key_gradient` needs gates of `tokens`. Received: key_gradient=True, tokens=False")
        if self.key_gradient and (self.attention_gradient or self.mask_after_softmax):
            raise InputError(
                "`key_gradient` must be False with `attention_gradient` or `mask_after_softmax`. Received: "
                f"key_gradient=True, attention_gradient={self.attention_gradient}, "
                f"mask_after_softmax={self.mask_after_softmax}"
            )
        if self.token_context and not self.tokens:
            raise InputError("`token_context` needs gates of `tokens`. Received: token_context=True, tokens=False")
        if self.mlp_heads == "hidden" and self.heads != "full":
            raise InputError(
                f"`mlp_heads` must be 'input' unless `heads` is 'full'. "
                f"Received: mlp_heads={self.mlp_heads!r}, heads={self.heads!r}"
            )

    def gates_tokens(self, block):
        """Whether the tokens of block number `block` are gated."""
        return self.tokens and block >= self.first_token_gated_block

    def gates_heads(self, block):
        """Whether the heads of block number `block` are gated."""
        return self.heads is not None and block >= self.first_gated_block

    def gates_sublayers(self, block):
        """Whether the two sub-layers of block number `block` are gated."""
        return self.blocks and block >= self.first_gated_block

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)
