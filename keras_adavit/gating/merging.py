"""Token merging: patches that are alike go on as their mean."""

import itertools

import keras
from keras import ops

from keras_adavit.gating.reduction import TokenReduction, order_top
from keras_adavit.settings import NonNegativeInt, settings


@keras.saving.register_keras_serializable("keras_adavit")
@settings
class MergePolicy(TokenReduction):
    """After every block but the last, some patches are merged into those most like them; no gates, no training needed.

    Token merging after Bolya et al., "Token merging: your ViT but faster" (ICLR 2023), section 3. The tokens that are
    left alternate between two sets, the class token in the first. Each of the first set finds the most similar one of
    the second, by the cosine of the block's attention keys, mean over heads. The `merged` most similar pairs are
    merged: a mean weighted by how many patches each stands for. The class token never goes into another. Attention is
    proportional: the logarithm of these sizes is added to its logits. What else a block has, gated or not, is used.

    Where this differs from the paper: there tokens merge within a block, between attention and MLP; here between two
    blocks, with the keys of the block before, so that its MLP still computes all, and nothing merges in the last block.
    Tokens stay in the order of the image, so that neighbours alternate; the paper leaves the order open.

    In what the model returns, a patch that was merged into another is skipped from then on and keeps the value that it
    had; the other one holds the mean.

    ```python
    outputs = model(images, policy=ka.MergePolicy(merged=8))  # any model, dense or gated
    ```

    Args:
        merged: Tokens merged after each block but the last, 0 or more; of fewer than twice as many patches, half.

    Raises:
        InputError: If it is not such a number.
    """

    merged: NonNegativeInt = 8

    reads = ("keys",)

    def token_counts(self, num_tokens, depth):
        counts = [num_tokens]
        while len(counts) < depth:
            counts.append(counts[-1] - min(self.merged, num_sources(counts[-1])))
        return counts

    def reduce(self, tokens, sizes, found, count):
        sizes = ops.ones(ops.shape(tokens)[:2], tokens.dtype) if sizes is None else sizes
        order, targets = match(found["keys"], tokens.shape[1] - count)
        tokens, sizes = merge(tokens, sizes, order[:, count:], targets)
        return tokens, sizes, order

    def macs(self, counts, head_dim):
        """MACs of the similarities, see `TokenReduction`."""
        before = [count for count, after in itertools.pairwise(counts) if after < count]
        return sum(num_sources(count) * num_targets(count) * head_dim for count in before)


def num_sources(num_tokens):
    """How many tokens could go into another: those at even positions, but for the class token."""
    return (num_tokens - 1) // 2


def num_targets(num_tokens):
    """How many tokens others could go into: those at odd positions."""
    return num_tokens // 2


def match(keys, merged):
    """Bipartite soft matching: which tokens go into which others.

    Args:
        keys: Attention keys (B, H, K, d), class token first.
        merged: How many are merged, r, from 0 to `num_sources(K)`.

    Returns:
        Integers (B, K): the tokens that go on, ascending, then the r that do not, ascending; and integers (B, r), the
        tokens into which the latter go.
    """
    num_tokens = keys.shape[2]
    keys = ops.mean(ops.cast(ops.stop_gradient(keys), "float32"), axis=1)  # (B, K, d)
    keys = keys / ops.maximum(ops.norm(keys, axis=-1, keepdims=True), 1e-12)
    sources, targets = keys[:, 2::2], keys[:, 1::2]
    similarity = ops.matmul(sources, ops.transpose(targets, (0, 2, 1)))  # (B, number of sources, number of targets)
    nearest = ops.argmax(similarity, axis=-1)
    likeness = ops.take_along_axis(similarity, nearest[:, :, None], axis=-1)  # (B, number of sources, 1)
    # At position 0 the class token, at the odd ones what others may go into: these are like nothing, and go on.
    apart = ops.pad(-likeness, ((0, 0), (1, 0), (0, 1)), constant_values=float("inf"))
    apart = ops.reshape(apart, (-1, 2 * apart.shape[1]))[:, :num_tokens]
    order = order_top(apart, num_tokens - merged)
    sources = order[:, num_tokens - merged :]
    return order, 2 * ops.take_along_axis(nearest, sources // 2 - 1, axis=1) + 1


def merge(tokens, sizes, sources, targets):
    """Means, weighted by size, of tokens and those that go into them.

    Args:
        tokens: Tensor (B, K, D).
        sizes: Tensor (B, K), how many tokens each stands for.
        sources: Integers (B, r), the tokens that go into others; none of `targets` is among them.
        targets: Integers (B, r), into which; the same one may come several times.

    Returns:
        Tokens (B, K, D) and sizes (B, K), those of `sources` as before.
    """
    into = ops.one_hot(targets, tokens.shape[1], dtype=tokens.dtype)  # (B, r, K)
    moved_sizes = ops.take_along_axis(sizes, sources, axis=1)[:, :, None]  # (B, r, 1)
    merged_sizes = sizes + ops.sum(into * moved_sizes, axis=1)  # (B, K)
    # A target moves towards each of its sources, so that a token into which nothing goes stays exactly as it is.
    distance = take_rows(tokens, sources) - take_rows(tokens, targets)  # (B, r, D)
    moves = ops.transpose(into * moved_sizes / merged_sizes[:, None], (0, 2, 1))  # (B, K, r)
    return tokens + ops.matmul(moves, distance), merged_sizes


def take_rows(tokens, indices):
    """Tokens (B, K, D) at indices (B, r): (B, r, D)."""
    return ops.take_along_axis(tokens, indices[:, :, None], axis=1)
