"""Packed execution on JAX, where shapes are static; see `dispatch.py` and `static.py`.

On CPUs the rows of several images are computed in chunks of one size, as many as are filled, and attention goes image
by image, each in the smaller of two sizes that holds its rows. On accelerators, where many small products take long,
and with one image, for which reading the weights again would, rows are computed as in `static.py`.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
from jax import lax

from keras_adavit.kernels.dispatch import attention
from keras_adavit.kernels.jax import on_cpu
from keras_adavit.packed import static
from keras_adavit.packed.blocks import open_ungated, step_with, unroll_blocks, weights_like
from keras_adavit.packed.slots import mix_heads
from keras_adavit.packed.static import (  # noqa: F401  part of the interface
    add_rows,
    choose_size,
    hide_size,
    image_sizes,
    packs_single,
    select_heads,
    update_rows,
)

CHUNKS = 16  # of all rows; half a chunk is computed in vain, on average


def packing(images):
    can_pack = isinstance(images.shape[0], int) and images.shape[0] > 0  # Keras asks for shapes of any batch
    return sys.modules[__name__] if can_pack else None


def in_chunks(keep):
    """Whether the rows of a keep (B, T) are computed in chunks."""
    return on_cpu() and keep.shape[0] > 1


def select_rows(keep, broken):
    return static.select_rows(keep, broken, capacity(*keep.shape) if in_chunks(keep) else None)


def chunk_size(num_rows):
    """Rows of a chunk, where there are up to `num_rows` rows."""
    return -(-num_rows // CHUNKS)


def capacity(batch, num_tokens):
    """Room for the rows of `batch` images in whole chunks, and once more for those of an image."""
    return chunk_size(batch * num_tokens) * CHUNKS + num_tokens


def defer_norm(norm, table, normed=None):
    # The whole table takes one kernel, rows of a chunk five.
    return (norm(table) if normed is None else normed), lambda rows: rows


def map_rows(function, rows, table=None):
    """`function(rows, table)` chunk by chunk; returns (M, D) whose first rows are the result.

    The result is written over the table, so that it takes no more memory. Safe: row i is read from a position ≥ i,
    which no earlier chunk has written. Without a table, the result has as many rows as there is room for.
    """
    if not in_chunks(rows.keep):
        return static.map_rows(function, rows, table)
    size = chunk_size(rows.keep.size)

    def chunk(start):
        return dataclasses.replace(rows, indices=slice_from(rows.indices, start, size), start=start)

    if table is None:
        like = jax.eval_shape(lambda: function(chunk(0), None))
        outputs = jnp.zeros((len(rows.indices), like.shape[1]), like.dtype)
    else:
        outputs = jnp.pad(table, ((0, max(0, size * CHUNKS - len(table))), (0, 0)))

    def write(start, outputs):
        return write_from(outputs, function(chunk(start), outputs), start)

    return map_chunks(write, outputs, rows.total, size)


def map_chunks(step, outputs, stop, stride=1):
    """`outputs = step(start, outputs)` for 0, `stride`, 2·`stride`, … below `stop`."""
    if not is_traced(outputs):
        return functools.reduce(lambda outputs, start: step(start, outputs), range(0, int(stop), stride), outputs)

    def turn(state):
        start, outputs = state
        return start + stride, step(start, outputs)

    return lax.while_loop(lambda state: state[0] < stop, turn, (0, outputs))[1]


def slice_chunk(values, rows):
    return static.slice_chunk(values, rows) if rows.start is None else slice_from(values, rows.start, len(rows.indices))


def slice_from(table, start, size):
    """`size` rows of a table, from `start` on, which is not negative."""
    starts = (start,) + (0,) * (table.ndim - 1)
    return lax.dynamic_slice(table, starts, (size, *table.shape[1:]), allow_negative_indices=False)


def write_from(table, rows, start):
    """The table with other rows, from `start` on, which is not negative."""
    starts = (start,) + (0,) * (table.ndim - 1)
    return lax.dynamic_update_slice(table, rows.astype(table.dtype), starts, allow_negative_indices=False)


def is_traced(tensor):
    """Whether the values of a tensor are unknown here."""
    return isinstance(tensor, jax.core.Tracer)


def attend(qkv, rows, heads, head_dim, head_keep=None, partial=False):
    if on_cpu():
        return attend_per_image(qkv, rows, heads, head_keep, partial)
    return static.attend(qkv, rows, heads, head_dim, head_keep, partial)


def attend_per_image(qkv, rows, heads, head_keep, partial):
    """Attention image by image, of a table (N, 3·U·d) with at least T rows from each image's first one on."""
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
