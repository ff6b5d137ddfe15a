"""What backends share whose shapes are static, JAX and TensorFlow under XLA; see `dispatch.py`.

One compiled function serves every policy. There is room for all rows, and they are computed at once, in the smallest of
`LEVELS` sizes that holds them; attention in slots, as many of each image as the largest needs, in the smaller of two
sizes. TensorFlow may know how many images there are only when XLA compiles: sizes are then numbers in tensors.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from keras import ops

from keras_adavit.packed.rows import Rows, add_to_all
from keras_adavit.packed.slots import apply_head_keep, attend_padded

LEVELS = 8  # sizes for the rows of all images


@dataclasses.dataclass(frozen=True)
class StaticRows(Rows):
    """`Rows` with room for more; indices left over are the first row's, whose image is not broken.

    Attributes:
        running: (B, T) how many rows there are up to each token, that token included.
        start: The number of the first row, in a chunk.
    """

    running: Any = None
    start: Any = None

    @property
    def row_ids(self):
        return ops.reshape(ops.cast(self.keep, "int32") * self.running, (-1,))

    @property
    def total(self):
        """How many rows there are, a scalar."""
        return self.running[-1, -1]


def packs_single(inputs):
    return False


def select_rows(keep, broken, capacity=None):
    """As in `dispatch.py`; `capacity` is how many rows there is room for, by default B·T."""
    keep = ops.where(broken[:, None], 0.0, keep)
    running, size = running_count(keep), token_count(keep)
    capacity = size if capacity is None else capacity
    first = ops.argmax(ops.reshape(keep, (-1,)))
    indices = ops.broadcast_to(ops.cast(first, "int32"), (capacity + 1,))  # the last takes what has no row
    rows = StaticRows(keep, broken, indices, running=running)
    positions = ops.where(rows.row_ids > 0, rows.row_ids - 1, capacity)
    indices = ops.scatter_update(indices, positions[:, None], ops.arange(size, dtype="int32"))
    return dataclasses.replace(rows, indices=indices[:capacity])


def token_count(keep):
    """B·T of a keep (B, T): an int, or a tensor where B is not known yet."""
    batch, num_tokens = ops.shape(keep)
    return batch * num_tokens


def running_count(keep):
    """How many tokens of a keep (B, T) are kept up to each token, that token included: int32 (B, T).

    A product and a sum, since a cumulated sum has five kernels on CPUs, and each takes memory to compile.
    """
    batch, num_tokens = ops.shape(keep)
    within = ops.matmul(keep, np.triu(np.ones((num_tokens, num_tokens), "float32")))  # exact: small whole numbers
    image = ops.arange(batch)
    is_before = ops.cast(image < image[:, None], "float32")
    before = ops.sum(is_before * within[:, -1], axis=1, keepdims=True)
    return ops.cast(within + before, "int32")


def update_rows(update, table, rows):
    is_needed = ops.logical_or(rows.total > 0, ops.any(rows.broken))
    return choose(ops.cast(is_needed, "int32"), [lambda table: table, lambda table: update(table, rows)], table)


def map_rows(function, rows, table=None):
    """`function(rows, table)` of the smallest size that holds the rows; returns (M, D) whose first rows are the result.

    M is as many as there is room for, at least.
    """
    room = ops.shape(rows.indices)[0]

    def compute(size, *tables):
        values = function(dataclasses.replace(rows, indices=rows.indices[:size]), *(tables or (None,)))
        return ops.pad(values, ((0, room - size), (0, 0)))

    return choose_size(rows.total, sizes_up_to(room), compute, *(() if table is None else (table,)))


def slice_chunk(values, rows):
    return values[: ops.shape(rows.indices)[0]]


def defer_norm(norm, table, normed=None):
    return (table, norm) if normed is None else (normed, lambda rows: rows)


def add_rows(table, rows, values):
    return add_to_all(table, rows, ops.cast(values, table.dtype))


def sizes_up_to(largest):
    """`largest`·1/LEVELS, ·2/LEVELS, …, rounded up, each once if they are known."""
    sizes = [-(-largest * level // LEVELS) for level in range(1, LEVELS + 1)]
    return sorted(set(sizes)) if isinstance(largest, int) else sizes


def choose_size(needed, sizes, branch, *operands):
    """Calls `branch(size, *operands)` with the smallest of some static sizes, ascending, that suffices."""
    is_too_small = ops.cast(ops.stack(sizes), "int32") < ops.cast(needed, "int32")
    level = ops.sum(ops.cast(is_too_small, "int32"))
    return choose(level, [functools.partial(branch, size) for size in sizes], *operands)


def choose(index, branches, *operands):
    """Calls one of the branches with the operands; all give the same shapes."""
    try:
        number = int(index)
    except TypeError:  # not known while a function is traced
        return ops.switch(index, branches, *operands)
    return branches[number](*operands)  # `jax.lax.switch` would compile all of them at every call


def attend(qkv, rows, heads, head_dim, head_keep=None, partial=False):
    attended = attend_shared(qkv, rows, heads, head_dim)
    return apply_head_keep(attended, qkv, rows, heads, head_dim, head_keep, partial)


def attend_shared(qkv, rows, heads, head_dim):
    """Attention of all images in as many slots as the largest needs: (N, 3·U·d) → (N, U·d)."""
    padded = functools.partial(attend_padded, rows=rows, heads=heads)
    sizes = image_sizes(rows.keep.shape[1])
    attended = choose_size(ops.max(rows.counts), sizes, padded, ops.reshape(qkv, (-1, head_dim)))
    return ops.reshape(attended, (-1, heads * head_dim))


def image_sizes(num_tokens):
    """Rows for which attention is compiled, where an image has up to `num_tokens`."""
    return [-(-num_tokens * 2 // 3), num_tokens]


def select_heads(head_keep, num_tokens):
    return None


def hide_size(size, heads):
    return size
