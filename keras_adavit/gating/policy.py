"""A policy: what every block of every image uses, and means over it.

`token_keep` (B, L, T), `head_keep` (B, L, H) and `block_keep` (B, L, 2), 1 use and 0 skip, at full depth: 1 where
a block is not gated. B images, L blocks, T tokens with the class token first, H heads.
"""

from keras import ops

from keras_adavit.errors import InputError

SUBLAYERS = ("attention", "mlp")
POLICY_KEYS = ("token_keep", "head_keep", "block_keep")
LOGIT_KEYS = ("token_logits", "head_logits", "block_logits")
DETAIL_KEYS = (*LOGIT_KEYS, "class_attention", "class_tokens")


def detail_keys(details):
    """Which of `DETAIL_KEYS` are asked for: all for `True`, none for `False`, or the given names.

    Raises:
        InputError: If there is no such name.
    """
    if isinstance(details, bool):
        return DETAIL_KEYS if details else ()
    if not isinstance(details, (tuple, list)) or not all(key in DETAIL_KEYS for key in details):
        raise InputError(f"`details` must be a bool or names among {DETAIL_KEYS}. Received: details={details!r}")
    return tuple(details)


def stack_blocks(decisions):
    """Stacks what each block returned.

    Args:
        decisions: One dict a block, of tensors (B, ...).

    Returns:
        A dict of tensors (B, L, ...).
    """
    return {key: ops.stack([block[key] for block in decisions], axis=1) for key in decisions[0]}


def token_usage(token_keep):
    """Mean share of tokens used, the class token counted: a scalar."""
    return ops.mean(token_keep)


def head_usage(head_keep, block_keep):
    """Mean share of heads used, over the blocks in which the image uses at least one sub-layer: a scalar."""
    active = active_blocks(block_keep)
    heads = ops.cast(ops.shape(head_keep)[-1], head_keep.dtype)
    return ops.sum(head_keep * active[..., None]) / ops.maximum(ops.sum(active) * heads, 1.0)


def sublayer_usage(block_keep):
    """Mean share of images that use attention, and that use the MLP: two scalars in the order of `SUBLAYERS`."""
    usage = ops.mean(block_keep, axis=(0, 1))
    return usage[0], usage[1]


def active_blocks(block_keep):
    """1 where an image uses at least one sub-layer of a block: (B, L, 2) → (B, L), without gradient."""
    return ops.stop_gradient(ops.max(block_keep, axis=-1))
