"""Packed execution on JAX, where shapes are static; see `dispatch.py`.

One compiled function serves every policy. There is room for all rows, and they are computed in chunks of one size, as
many as are filled; those of one image, for which reading the weights again would take too long, at once, in the
smallest of `LEVELS` sizes. On CPUs attention goes image by image, each in the smaller of two sizes that holds its
rows; on accelerators all images share the size that the largest needs.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from keras_adavit.kernels.dispatch import attention
from keras_adavit.kernels.jax import on_cpu
from keras_adavit.packed.blocks import open_ungated, step_with, unroll_blocks, weights_like
from keras_adavit.packed.rows import Rows, add_to_all
from keras_adavit.packed.slots import apply_head_keep, attend_padded, mix_heads

CHUNKS = 16  # of all rows; half a chunk is computed in vain, on average
LEVELS = 8  # sizes for the rows of one image


@dataclasses.dataclass(frozen=True)
class ChunkedRows(Rows):
    """`Rows` with `capacity` indices; those left over are the first row's, whose image is not broken.

    Attributes:
        running: (B, T) how many rows there are up to each token, that token included.
        start: The number of the first row, in a chunk.
    """

    running: Any = None
    start: Any = None

    @property
    def row_ids(self):
        return jnp.reshape(self.keep.astype("int32") * self.running, (-1,))

    def chunk(self, start, size):
        """`size` of the rows, from `start` on."""
        return dataclasses.replace(self, indices=slice_from(self.indices, start, size), start=start)


def can_pack(images, xla):
    return isinstance(images.shape[0], int) and images.shape[0] > 0  # Keras asks for shapes of any batch


def packs_single(inputs):
    return False


def select_rows(keep, broken):
    keep = jnp.where(broken[:, None], 0.0, keep)
    running, size = running_count(keep), keep.size
    indices = jnp.full((capacity(*keep.shape),), jnp.argmax(keep.reshape(-1)), "int32")
    rows = ChunkedRows(keep, broken, indices, running=running)
    indices = indices.at[rows.row_ids - 1].set(jnp.arange(size), mode="drop", wrap_negative_indices=False)
    return dataclasses.replace(rows, indices=indices)


def chunk_size(num_rows):
    """Rows of a chunk, where there are up to `num_rows` rows."""
    return -(-num_rows // CHUNKS)


def capacity(batch, num_tokens):
    """Room for the rows of `batch` images in whole chunks, and once more for those of an image."""
    return chunk_size(batch * num_tokens) * CHUNKS + num_tokens


def running_count(keep):
    """How many tokens of a keep (B, T) are kept up to each token, that token included: int32 (B, T).

    A product and a sum, since a cumulated sum has five kernels on CPUs, and each takes memory to compile.
    """
    batch, num_tokens = keep.shape
    within = jnp.matmul(keep, np.triu(np.ones((num_tokens, num_tokens), "float32")), precision="highest")
    before = jnp.sum(np.tri(batch, k=-1, dtype="float32") * within[:, -1], axis=1, keepdims=True)
    return (within + before).astype("int32")


def update_rows(update, table, rows):
    is_needed = (rows.running[-1, -1] > 0) | jnp.any(rows.broken)
    return choose(is_needed.astype("int32"), [lambda table: table, lambda table: update(table, rows)], table)


def defer_norm(norm, table, normed=None):
    # The whole table takes one kernel, rows of a chunk five.
    return (norm(table) if normed is None else normed), lambda rows: rows


def map_rows(function, rows, table=None):
    """`function(rows, table)` chunk by chunk; returns (M, D) whose first rows are the result.

    The result is written over the table, so that it takes no more memory. Safe: row i is read from a position ≥ i,
    which no earlier chunk has written. Without a table, the result has `capacity` rows.
    """
    (images, num_tokens), count = rows.keep.shape, rows.running[-1, -1]
    size = chunk_size(images * num_tokens)
    if table is None:
        like = jax.eval_shape(lambda: function(rows.chunk(0, size), None))
        outputs = jnp.zeros((len(rows.indices), like.shape[1]), like.dtype)
    else:
        outputs = jnp.pad(table, ((0, max(0, size * CHUNKS - len(table))), (0, 0)))

    def write(size, start, outputs):
        return write_from(outputs, function(rows.chunk(start, size), outputs), start)

    if images == 1:
        return choose_size(count, sizes_up_to(num_tokens), write, 0, outputs)
    return map_chunks(functools.partial(write, size), outputs, count, size)


def map_chunks(step, outputs, stop, stride=1):
    """`outputs = step(start, outputs)` for 0, `stride`, 2·`stride`, … below `stop`."""
    if not is_traced(outputs):
        return functools.reduce(lambda outputs, start: step(start, outputs), range(0, int(stop), stride), outputs)

    def turn(state):
        start, outputs = state
        return start + stride, step(start, outputs)

    return lax.while_loop(lambda state: state[0] < stop, turn, (0, outputs))[1]


def slice_chunk(values, rows):
    return values if rows.start is None else slice_from(values, rows.start, len(rows.indices))


def slice_from(table, start, size):
    """`size` rows of a table, from `start` on, which is not negative."""
    starts = (start,) + (0,) * (table.ndim - 1)
    return lax.dynamic_slice(table, starts, (size, *table.shape[1:]), allow_negative_indices=False)


def write_from(table, rows, start):
    """The table with other rows, from `start` on, which is not negative."""
    starts = (start,) + (0,) * (table.ndim - 1)
    return lax.dynamic_update_slice(table, rows.astype(table.dtype), starts, allow_negative_indices=False)


def sizes_up_to(largest):
    """`largest`·1/LEVELS, ·2/LEVELS, …, rounded up, each once."""
    return sorted({-(-largest * level // LEVELS) for level in range(1, LEVELS + 1)})


def choose_size(needed, sizes, branch, *operands):
    """Calls `branch(size, *operands)` with the smallest of some static sizes, ascending, that suffices."""
    level = jnp.sum(jnp.array(sizes) < needed.astype("int32"))
    return choose(level, [functools.partial(branch, size) for size in sizes], *operands)


def choose(index, branches, *operands):
    """Calls one of the branches with the operands; all give the same shapes."""
    if not is_traced(index):  # lax.switch would compile all of them at every call
        return branches[int(index)](*operands)
    return lax.switch(index, branches, *operands)


def is_traced(tensor):
    """Whether the values of a tensor are unknown here."""
    return isinstance(tensor, jax.core.Tracer)


def add_rows(table, rows, values):
    return add_to_all(table, rows, values.astype(table.dtype))


def attend(qkv, rows, heads, head_dim, head_keep=None, partial=False):
    if on_cpu():
        return attend_per_image(qkv, rows, heads, head_keep, partial)
    return apply_head_keep(attend_shared(qkv, rows, heads, head_dim), qkv, rows, heads, head_dim, head_keep, partial)


def attend_shared(qkv, rows, heads, head_dim):
    """Attention of all images in as many slots as the largest needs: (N, 3·U·d) → (N, U·d)."""
    sizes = image_sizes(rows.keep.shape[1])
    padded = functools.partial(attend_padded, rows=rows, heads=heads)
    attended = choose_size(jnp.max(rows.counts), sizes, padded, qkv.reshape(-1, head_dim))
    return attended.reshape(-1, heads * head_dim)


def attend_per_image(qkv, rows, heads, head_keep, partial):
    """Attention image by image, of a table (N, 3·U·d) with at least T rows more than the images have."""
    width, (images, num_tokens) = qkv.shape[1] // 3, rows.keep.shape
    ends = rows.running[:, -1]

    def attend(size, start, count, keep):
        """An image's attention, followed by zeros, so that shapes agree."""
        if size == 0:
            return jnp.zeros((num_tokens, width), qkv.dtype)
        part = slice_from(qkv, start, size).reshape(1, size, 3, heads, -1)
        query, key, value = part.transpose(2, 0, 3, 1, 4)  # (1, U, S, d) each
        attended = attention(query, key, value, jnp.arange(size) < count)
        if keep is not None:
            attended = mix_heads(attended, value, keep, partial)
        attended = attended[0].transpose(1, 0, 2).reshape(size, width)
        return jnp.pad(attended, ((0, num_tokens - size), (0, 0)))

    def update(image, outputs):
        """What is written beyond an image's rows is overwritten by the images that follow."""
        start = jnp.where(image > 0, ends[image - 1], 0)
        count = ends[image] - start
        keep = None if head_keep is None else head_keep[image].astype(qkv.dtype)[None, :, None, None]
        attended = choose_size(count, [0, *image_sizes(num_tokens)], attend, start, count, keep)
        return write_from(outputs, attended, start)

    return map_chunks(update, jnp.zeros((qkv.shape[0], width), qkv.dtype), images)


def image_sizes(num_tokens):
    """Rows for which attention is compiled, where an image has up to `num_tokens`."""
    return [-(-num_tokens * 2 // 3), num_tokens]


def select_heads(head_keep, num_tokens):
    return None


def hide_size(size, heads):
    return size


def run_blocks(blocks, step, tokens, given):
    """A loop over the last block with the weights of each, which are copied for it."""
    if not is_traced(tokens):
        return unroll_blocks(blocks, step, tokens, given)
    return scan_blocks(blocks, step, tokens, given)


def scan_blocks(blocks, step, tokens, given):
    template = blocks[-1]
    given = [open_ungated(block, keeps) for block, keeps in zip(blocks, given, strict=True)]

    def turn(tokens, inputs):
        index, keeps = inputs
        weights = lax.switch(index, [lambda block=block: weights_like(block, template) for block in blocks])
        return step_with(step, template, weights, tokens, keeps)

    inputs = jnp.arange(len(blocks)), {key: jnp.stack([keeps[key] for keeps in given]) for key in given[0]}
    tokens, decisions = lax.scan(turn, tokens, inputs)
    return tokens, {key: jnp.swapaxes(tensor, 0, 1) for key, tensor in decisions.items()}
