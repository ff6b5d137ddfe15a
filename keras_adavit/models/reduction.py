"""Running blocks on ever fewer tokens, equally many of every image, see `gating/reduction.py`.

What goes on is gathered, so that a block runs as a dense one of fewer tokens, in either execution. B images, T tokens,
K of them that are left.
"""

from keras import ops

from keras_adavit.gating.policy import LOGIT_KEYS, stack_blocks
from keras_adavit.kernels.dispatch import gather


def run_reduced(blocks, tokens, policy, details=(), training=False):
    """Runs blocks one after the other.

    Args:
        blocks: The `GatedBlock`s, whose gates are not asked.
        tokens: Tensor (B, T, D), class token first.
        policy: A `TokenReduction`.
        details: Names among `DETAIL_KEYS`.
        training: Whether branches are dropped.

    Returns:
        The tokens (B, T, D), each as the last block that computed it left it; and a dict of the policy and the details
        of all blocks (B, L, ...).
    """
    batch, num_tokens = ops.shape(tokens)[0], tokens.shape[1]
    counts = policy.token_counts(num_tokens, len(blocks))
    asked = tuple(key for key in details if key == "class_attention")
    ids = ops.tile(ops.arange(num_tokens, dtype="int32")[None], (batch, 1))  # (B, K), which tokens these are
    sizes, left, found_by_block = None, [], []
    for block, count, after in zip(blocks, counts, [*counts[1:], counts[-1]], strict=True):
        reads = policy.reads if after < count else ()
        tokens, found = block.execute(tokens, training=training, details=(*asked, *reads), token_size=sizes)
        found_by_block.append(details_of(details, tokens, found, ids, num_tokens, block.num_heads))
        if after < count:
            tokens, sizes, order = policy.reduce(tokens, sizes, found, after)
            tokens, ids = take_tokens(tokens, order), take_tokens(ids, order)
            sizes = None if sizes is None else take_tokens(sizes, order)[:, :after]
            left += [(tokens[:, after:], ids[:, after:])]
            tokens, ids = tokens[:, :after], ids[:, :after]
    # First those that are left, then those that went last, and so on: block i computed the first counts[i] of them.
    tokens, ids = (ops.concatenate(parts, axis=1) for parts in zip((tokens, ids), *reversed(left), strict=True))
    places = ops.argsort(ids, axis=1)  # (B, T), where each token is
    computed = ops.convert_to_tensor(counts, dtype=places.dtype)[:, None]  # (L, 1)
    decisions = {
        "token_keep": ops.cast(places[:, None] < computed, "float32"),
        "head_keep": ops.ones((batch, len(blocks), blocks[0].num_heads), dtype="float32"),
        "block_keep": ops.ones((batch, len(blocks), 2), dtype="float32"),
    }
    if details:
        decisions |= stack_blocks(found_by_block)
    return take_tokens(tokens, places) if left else tokens, decisions


def details_of(details, tokens, found, ids, num_tokens, num_heads):
    """The details of one block, a dict of tensors (B, ...); no gate gave logits, they are zeros."""
    batch, values = ops.shape(tokens)[0], {}
    for key, units in zip(LOGIT_KEYS, (num_tokens - 1, num_heads, 2), strict=True):
        values[key] = lambda units=units: ops.zeros((batch, units), dtype="float32")
    values["class_tokens"] = lambda: tokens[:, 0]
    values["class_attention"] = lambda: ops.matmul(  # 0 at tokens that are not computed
        found["class_attention"], ops.one_hot(ids, num_tokens, dtype="float32")
    )
    return {key: values[key]() for key in details}


def take_tokens(table, indices):
    """What lies in a table (B, K, ...) at indices (B, N) of each image: (B, N, ...)."""
    images = ops.arange(ops.shape(table)[0], dtype=indices.dtype)[:, None]
    indices = images * table.shape[1] + indices
    return gather(ops.reshape(table, (-1, *table.shape[2:])), indices)
