"""Which parts of a model are gated, and how."""

import dataclasses
from typing import Literal

import keras

from keras_adavit.errors import InputError
from keras_adavit.settings import NonNegativeInt, PositiveFloat, Threshold, settings


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
        heads: `"full"`: a skipped head's channels are zero in attention and at the MLP's input; `"partial"`: a
            skipped head passes its values through, the MLP is untouched; `None`: heads are not gated.
        blocks: Gate each block's two sub-layers, attention and MLP.
        gate_mlp_tokens: A skipped token skips the MLP too, not attention alone.
        first_gated_block: First block whose heads and sub-layers are gated.
        first_token_gated_block: First block whose tokens are gated.
        temperature: τ > 0 of the noisy sigmoid in training. Evaluation uses none.
        token_threshold: A token is used if its probability exceeds this, in (0, 1).
        head_threshold: The same of a head.
        block_threshold: The same of a sub-layer.
        normalize_policy_input: Head and block gates read the class token through a layer normalisation of their own.

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

    def __post_init__(self):
        if not (self.tokens or self.heads or self.blocks):
            raise InputError(
                "`GateConfig` must gate at least one of `tokens`, `heads` and `blocks`; "
                "for a dense model give `gates=None`. Received: all three off"
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
