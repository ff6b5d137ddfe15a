"""Policies under which blocks compute ever fewer tokens, equally many of every image."""

import abc
import dataclasses

from keras import ops


class TokenReduction(abc.ABC):
    """What such a policy says; it decides between two blocks, from what the earlier one found.

    How many tokens go on does not depend on the image, so that shapes are static and a block runs as a dense one of
    fewer tokens: on every backend, with XLA, and in training.

    Attributes:
        reads: What the decision needs of the block before, names of `details` of `GatedAttention`.
    """

    reads = ()

    @abc.abstractmethod
    def token_counts(self, num_tokens, depth):
        """How many tokens each of `depth` blocks computes, of `num_tokens`, class token included: a list of ints.

        Raises:
            InputError: If the policy does not fit a model of this depth.
        """

    @abc.abstractmethod
    def reduce(self, tokens, sizes, found, count):
        """Decides which tokens go on.

        Args:
            tokens: Tensor (B, K, D), what the block before gave, class token first.
            sizes: Tensor (B, K), how many tokens each stands for, or `None`: one.
            found: Dict of what `reads` names.
            count: How many go on, at least the class token.

        Returns:
            The tokens and sizes, which may have changed, and integers (B, K): the tokens that go on, ascending, then
            those that do not, ascending.
        """

    def macs(self, counts, head_dim):
        """MACs of the decisions themselves, an int: for `token_counts` and the channels of a head."""
        return 0

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def order_top(scores, count):
    """The `count` highest scores first; of equal ones the first are taken, and NaN comes last.

    Args:
        scores: Tensor (B, N).
        count: From 0 to N.

    Returns:
        Integers (B, N), a permutation: where the `count` highest are, ascending, then where the others are, ascending.
    """
    scores = ops.where(ops.isnan(scores), -float("inf"), ops.stop_gradient(scores))
    order = ops.argsort(-scores, axis=-1)
    return ops.concatenate([ops.sort(order[:, :count], axis=-1), ops.sort(order[:, count:], axis=-1)], axis=-1)
