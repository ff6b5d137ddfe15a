"""Attention among the rows of each image, out of a table that holds those of all images.

Image by image nothing is computed in vain: on CPUs torch does so, on views of the table, and JAX in a loop, see
`buckets.py`. Where starting operations would cost more than that, one gather lays query, key and value out as
(A, U, S, d), in S slots an image, as many as the largest of a group of images needs, rounded up; it takes the place of
a dense block's transposition.

B images, A of a group, U used heads, d channels of a head, N rows, S slots.
"""

import functools

import keras
from keras import ops

from keras_adavit.inference.rows import gather, keep_of_rows
from keras_adavit.layers.kernels import on_cpu, scaled_dot_product

STEP = 8  # S is a multiple of it, so that oneDNN, on TensorFlow, prepares kernels for few sizes
GROUPS = 3  # so that fewer slots stay empty; more groups take more operations


def attend(qkv, rows, heads, depth, head_keep=None, partial=False):
    """Attention of each image's rows to each other.

    Args:
        qkv: Tensor (N, 3·U·d): of every row the queries of all heads, the keys, the values.
        rows: The `Rows`.
        heads: U.
        depth: d, channels of a head.
        head_keep: Tensor (B, U) of 0 and 1, or `None`: no head is skipped.
        partial: If the output of a skipped head is its value, not zero.

    Returns:
        Tensor (N, U·d).
    """
    if keras.backend.backend() == "jax" and on_cpu():
        from keras_adavit.inference import buckets

        return buckets.attend_each(qkv, rows, heads, head_keep, partial)
    attended = attend_all(qkv, rows, heads, depth)
    if head_keep is None:
        return attended
    value = ops.reshape(qkv, (-1, 3, heads, depth))[:, 2]
    keep = keep_of_rows(head_keep, rows, attended.dtype)
    return ops.reshape(keep_heads(ops.reshape(attended, (-1, heads, depth)), value, keep, partial), (-1, heads * depth))


def keep_heads(attended, value, keep, partial):
    """The output of heads (..., U, d), where a skipped one, of `keep` 0, is zero or, if `partial`, its value."""
    kept = attended * keep
    return kept + value * (1 - keep) if partial else kept


def attend_all(qkv, rows, heads, depth):
    """`attend` with all heads."""
    if rows.everything:
        return attend_alike(qkv, rows.keep.shape[0], heads, depth)
    table = ops.reshape(qkv, (-1, depth))  # (N·3·U, d)
    if keras.backend.backend() == "jax":
        from keras_adavit.inference import buckets

        sizes = buckets.image_sizes(rows.keep.shape[1])
        share = functools.partial(attend_together, rows=rows, heads=heads)
        attended = buckets.choose_size(ops.max(rows.counts), sizes, share, table)
    elif keras.backend.backend() == "torch" and qkv.device.type == "cpu":
        return attend_each(qkv, rows, heads)
    else:
        # One image needs no slots.
        return ops.cond(
            ops.shape(rows.keep)[0] == 1,
            lambda: attend_alike(qkv, 1, heads, depth),
            lambda: ops.reshape(attend_groups(table, rows, heads), (-1, heads * depth)),
        )
    return ops.reshape(attended, (-1, heads * depth))


def attend_each(qkv, rows, heads):
    """`attend_all` image by image, on torch: rows of an image are neighbours, so that nothing is copied before."""
    import torch

    qkv = qkv.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)[:, None]  # (3, 1, U, N, d)
    counts = rows.counts.tolist()
    images = (
        torch.nn.functional.scaled_dot_product_attention(*image).squeeze(0).transpose(0, 1)  # (count, U, d)
        for image in qkv.split(counts, dim=3)
    )
    return torch.cat(list(images)).flatten(1)


def attend_together(slots, qkv, rows, heads):
    """`attend_groups` in one group, of a given number of slots."""
    counts = rows.counts
    starts = ops.cumsum(counts) - counts
    attended = attend_slots(qkv, starts, counts, heads, slots)
    first = ops.arange(counts.shape[0], dtype=starts.dtype) * (heads * slots)
    return pick_rows(attended, rows, first, starts, ops.full_like(rows.images, slots), heads)


def attend_alike(qkv, images, heads, depth):
    """`attend_all` of images with as many rows each."""
    qkv = ops.transpose(ops.reshape(qkv, (images, -1, 3, heads, depth)), (2, 0, 3, 1, 4))
    attended = scaled_dot_product(*ops.unstack(qkv, 3))  # (B, U, N/B, d)
    return ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, heads * depth))


def attend_groups(qkv, rows, heads):
    """`attend_all` of groups of images with about as many rows, which share slots.

    Args:
        qkv: Tensor (N·3·U, d).
        rows: The `Rows`.
        heads: U.

    Returns:
        Tensor (N, U, d).
    """
    counts = rows.counts
    starts = ops.cumsum(counts) - counts
    order = ops.argsort(counts)
    empty = ops.sum(ops.cast(counts == 0, order.dtype))  # images without rows; they come first and are left out
    images = ops.shape(order)[0] - empty
    pieces, first, slots, filled = [], [ops.zeros((empty,), order.dtype)], [ops.ones((empty,), order.dtype)], 0
    for group in range(GROUPS):
        members = order[empty + images * group // GROUPS : empty + images * (group + 1) // GROUPS]
        found = gather(counts, members)
        most = ops.max(ops.concatenate([found, ops.ones((1,), found.dtype)]))
        most = (most + STEP - 1) // STEP * STEP
        pieces.append(attend_slots(qkv, gather(starts, members), found, heads, most))
        size = ops.shape(members)[0]
        first.append(filled + ops.arange(size, dtype=order.dtype) * heads * most)
        slots.append(ops.zeros_like(members) + most)
        filled = filled + size * heads * most
    inverse = ops.argsort(order)
    first, slots = gather(ops.concatenate(first), inverse), gather(ops.concatenate(slots), inverse)
    return pick_rows(ops.concatenate(pieces), rows, first, starts, gather(slots, rows.images), heads)


def attend_slots(qkv, starts, counts, heads, slots):
    """Attention of each image's rows to each other, laid out in slots; rows of an image are neighbours.

    Args:
        qkv: Tensor (N·3·U, d).
        starts: (A,) first row of each image.
        counts: (A,) rows of each image.
        heads: U.
        slots: S, at least the largest count.

    Returns:
        Tensor (A·U·S, d).
    """
    slot = ops.arange(slots, dtype=counts.dtype)
    filled = slot < counts[:, None]  # (A, S)
    row = starts[:, None] + ops.where(filled, slot, 0)  # (A, S); an empty slot reads its own image, never another
    head = ops.arange(heads, dtype=counts.dtype)[:, None]  # (U, 1)
    query, key, value = (
        gather(qkv, row[:, None] * (3 * heads) + part * heads + head) for part in range(3)
    )  # (A, U, S, d)
    attended = scaled_dot_product(query, key, value, filled[:, None, None])
    return ops.reshape(attended, (-1, attended.shape[-1]))


def pick_rows(attended, rows, first, starts, slots, heads):
    """Rows out of their slots.

    Args:
        attended: Tensor (A·U·S, d).
        rows: The `Rows`.
        first: (B,) where each image begins in it.
        starts: (B,) first row of each image.
        slots: (N,) S of each row's image.
        heads: U.

    Returns:
        Tensor (N, U, d).
    """
    images = rows.images
    slot = ops.arange(ops.shape(images)[0], dtype=starts.dtype) - gather(starts, images)
    place = (gather(first, images) + slot)[:, None]
    return gather(attended, place + ops.arange(heads, dtype=place.dtype) * slots[:, None])
