"""Attention among the rows of each image, laid out in slots.

One gather lays query, key and value out as (A, U, S, d), with S slots an image, as many as the image with the most
rows needs. It takes the place of a dense block's transposition.

B images, A images of a group, U used heads, d channels of a head, N rows, S slots.
"""

from keras import ops

from keras_adavit.kernels.dispatch import attention, gather
from keras_adavit.packed.rows import keep_of_rows

STEP = 8  # S is a multiple of it, so that oneDNN prepares kernels for few sizes
GROUPS = 3  # images of about as many rows share slots; more groups leave fewer empty and take more operations


def attend_equal_length(qkv, images, heads, head_dim):
    """Attention of images that all have the same number of rows.

    Args:
        qkv: Tensor (N, 3·U·d): of every row the queries of all heads, the keys, the values.
        images: B.
        heads: U.
        head_dim: d.

    Returns:
        Tensor (N, U·d).
    """
    qkv = ops.transpose(ops.reshape(qkv, (images, -1, 3, heads, head_dim)), (2, 0, 3, 1, 4))
    attended = attention(*ops.unstack(qkv, 3))  # (B, U, N/B, d)
    return ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), (-1, heads * head_dim))


def attend_grouped(qkv, rows, heads, head_dim):
    """Attention in `GROUPS` groups of images that have about as many rows. Arguments are those of `attend`."""
    table = ops.reshape(qkv, (-1, head_dim))  # (N·3·U, d)
    counts = rows.counts
    starts = ops.cumsum(counts) - counts
    # Keys that differ: sorting those that are equal, OpenVINO 2026.4 gives an image twice and another not at all.
    images = ops.shape(counts)[0]
    order = ops.argsort(counts * images + ops.arange(images, dtype=counts.dtype))
    empty = ops.sum(ops.cast(counts == 0, order.dtype))  # images without rows come first and are left out
    images = images - empty
    attended, first, slots, filled = [], [ops.zeros((empty,), order.dtype)], [ops.ones((empty,), order.dtype)], 0
    for group in range(GROUPS):
        members = order[empty + images * group // GROUPS : empty + images * (group + 1) // GROUPS]
        own_counts = gather(counts, members)
        most = ops.max(ops.concatenate([own_counts, ops.ones((1,), own_counts.dtype)]))
        most = (most + STEP - 1) // STEP * STEP
        attended.append(attend_slots(table, gather(starts, members), own_counts, heads, most))
        size = ops.shape(members)[0]
        first.append(filled + ops.arange(size, dtype=order.dtype) * heads * most)
        slots.append(ops.zeros_like(members) + most)
        filled = filled + size * heads * most
    inverse = ops.argsort(order)
    first, slots = gather(ops.concatenate(first), inverse), gather(ops.concatenate(slots), inverse)
    attended = take_rows(ops.concatenate(attended), rows, first, starts, gather(slots, rows.image_ids), heads)
    return ops.reshape(attended, (-1, heads * head_dim))


def attend_padded(slots, table, rows, heads):
    """Attention of all images in one group of `slots` slots: `table` (N·3·U, d) → (N, U, d)."""
    counts = rows.counts
    starts = ops.cumsum(counts) - counts
    attended = attend_slots(table, starts, counts, heads, slots)
    first = ops.arange(ops.shape(counts)[0], dtype=starts.dtype) * (heads * slots)
    return take_rows(attended, rows, first, starts, ops.full_like(rows.image_ids, slots), heads)


def attend_slots(table, starts, counts, heads, slots):
    """Attention of a group of images.

    Args:
        table: Tensor (N·3·U, d); the rows of an image are neighbours.
        starts: (A,) first row of each image.
        counts: (A,) rows of each image.
        heads: U.
        slots: S, at least the largest count.

    Returns:
        Tensor (A·U·S, d).
    """
    slot = ops.arange(slots, dtype=counts.dtype)
    is_filled = slot < counts[:, None]  # (A, S)
    # An empty slot reads a row of its own image: one of another might hold NaN.
    row = starts[:, None] + ops.where(is_filled, slot, 0)  # (A, S)
    head = ops.arange(heads, dtype=counts.dtype)[:, None]  # (U, 1)
    query, key, value = (
        gather(table, row[:, None] * (3 * heads) + part * heads + head) for part in range(3)
    )  # (A, U, S, d)
    attended = attention(query, key, value, is_filled[:, None, None])
    return ops.reshape(attended, (-1, attended.shape[-1]))


def take_rows(attended, rows, first, starts, slots, heads):
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
    images = rows.image_ids
    slot = ops.arange(ops.shape(images)[0], dtype=starts.dtype) - gather(starts, images)
    slot = ops.minimum(slot, slots - 1)  # where there is room for more rows than there are
    index = (gather(first, images) + slot)[:, None]
    return gather(attended, index + ops.arange(heads, dtype=index.dtype) * slots[:, None])


def apply_head_keep(attended, qkv, rows, heads, head_dim, head_keep, partial):
    """What heads give (N, U·d) where skipped ones give zeros or, if `partial`, their values; see `attend`."""
    if head_keep is None:
        return attended
    value = ops.reshape(qkv, (-1, 3, heads, head_dim))[:, 2]
    keep = keep_of_rows(head_keep, rows, attended.dtype)
    attended = mix_heads(ops.reshape(attended, (-1, heads, head_dim)), value, keep, partial)
    return ops.reshape(attended, (-1, heads * head_dim))


def mix_heads(attended, value, keep, partial):
    """`attended` (..., U, d) where `keep` is 1; where it is 0 zeros or, if `partial`, `value`."""
    kept = attended * keep
    return kept + value * (1 - keep) if partial else kept
