"""Top-k: the patches that the class token attends to most go on, the others rest."""

import math

import keras
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.gating.reduction import TokenReduction, order_top
from keras_adavit.settings import PositiveShare, settings, several, whole


@keras.saving.register_keras_serializable("keras_adavit")
@settings
class TopKPolicy(TokenReduction):
    """At some blocks only the patches that the class token attends to most go on; no gates, no training needed.

    Ranked are the patches that are left, by the class token's attention in the block before, mean over heads. Equally
    many go on of every image, rounded up. A patch that does not go on keeps its value: later blocks compute neither its
    attention nor its MLP. What else a block has, gated or not, is used.

    The ranking, the share and the default blocks are those of EViT without its fused token (Liang et al., "Not all
    patches are what you need", ICLR 2022). There patches leave within a block, between attention and MLP; here between
    two blocks, so that the MLP before still computes them.

    ```python
    outputs = model(images, policy=ka.TopKPolicy(tokens=0.7))  # any model, dense or gated
    ```

    Args:
        tokens: Share of the remaining patches that goes on at each of the blocks, in (0, 1]; at least one does.
        blocks: Numbers of the blocks, from 1, before which patches are left out; by default those at 1/4, 1/2 and 3/4
            of the depth, 3, 6 and 9 of 12.

    Raises:
        InputError: If an argument is outside its range.
    """

    tokens: PositiveShare = 0.7
    blocks: several(whole(1), "one or more whole numbers from 1") | None = None

    reads = ("class_attention",)

    def token_counts(self, num_tokens, depth):
        blocks = default_blocks(depth) if self.blocks is None else self.blocks
        if blocks and max(blocks) >= depth:
            raise InputError(f"`blocks` must be below the depth of the model, {depth}. Received: blocks={blocks}")
        patches, counts = num_tokens - 1, []
        for block in range(depth):
            patches = keep_count(self.tokens, patches) if block in blocks else patches
            counts.append(patches + 1)
        return counts

    def reduce(self, tokens, sizes, found, count):
        order = order_top(patch_scores(found["class_attention"]), count - 1)
        return tokens, sizes, ops.pad(order + 1, ((0, 0), (1, 0)))  # the class token goes on


def default_blocks(depth):
    """The blocks at 1/4, 1/2 and 3/4 of the depth, rounded down, but for block 0, which has none before."""
    return tuple(sorted({depth * quarter // 4 for quarter in (1, 2, 3)} - {0}))


def keep_count(share, patches):
    """A share in (0, 1] of some patches, rounded up."""
    return math.ceil(round(share * patches, 6))  # 0.55 · 100 is a little more than 55 in floating point


def patch_scores(class_attention):
    """What patches are ranked by: the class token's attention (B, H, K), mean over heads: (B, K - 1)."""
    return ops.mean(class_attention, axis=1)[:, 1:]
