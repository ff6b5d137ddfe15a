"""Packed execution on JAX, where shapes are static: sizes are rounded up, rows to whole pieces.

One compiled function serves every policy, so that policies may change from batch to batch without compiling anew. The
rows of a sub-layer are computed in a loop over pieces of one size, as many as hold them; those of one image, for which
reading the weights again would take too long, at once, in the smallest of `ROW_LEVELS` sizes. A sub-layer has a variant
for no rows too. On CPUs attention goes image by image, in a loop, each image in the smaller of two `image_sizes` that
holds its rows; on accelerators all images share that of the largest, see `attend.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from keras_adavit.inference.attend import keep_heads
from keras_adavit.layers.kernels import scaled_dot_product

PIECES = 16  # of all rows; half a piece is computed in vain, on average
ROW_LEVELS = 8  # of one image


def piece_size(length):
    """Rows of a piece, where there are up to `length` rows."""
    return -(-length // PIECES)


def places(batch, length):
    """Rows to lay out for images of up to `length` rows each: those of all pieces, and once more those of an image."""
    return piece_size(batch * length) * PIECES + length


def running_count(keep):
    """How many tokens of a keep (B, T) are kept up to each of them, that included: int32 (B, T).

    In a product and a sum, since XLA has five kernels for a cumulated sum on CPUs, and each takes memory to compile.
    """
    batch, length = keep.shape
    within = jnp.matmul(keep, np.triu(np.ones((length, length), "float32")), precision="highest")
    before = jnp.sum(np.tri(batch, k=-1, dtype="float32") * within[:, -1], axis=1, keepdims=True)
    return (within + before).astype("int32")


def in_pieces(function, rows, table=None):
    """`function(rows, table)`, where each row of the result depends on that row alone, piece by piece.

    The result is written over the table, a piece over the rows of these numbers, so that another table needs no
    memory: no piece reads what an earlier one has written, since a row's place is never before its number.

    Args:
        function: Function of some of the `Rows` and of the table, returns (n, D), values of these rows.
        rows: The `Rows`.
        table: Tensor (M, D) that it reads, or `None`: the result has as many rows as there are places.

    Returns:
        Tensor (N, D) whose first rows are the result.
    """
    (images, length), count = rows.keep.shape, rows.running[-1, -1]
    size = piece_size(images * length)
    if table is None:
        like = jax.eval_shape(lambda: function(rows.part(0, size), None))
        outputs = jnp.zeros((len(rows.places), like.shape[1]), like.dtype)
    else:
        outputs = jnp.pad(table, ((0, max(0, size * PIECES - len(table))), (0, 0)))

    def write(size, start, outputs):
        return overwrite(outputs, function(rows.part(start, size), outputs), start)

    if images == 1:
        return choose_size(count, steps(length, ROW_LEVELS)[1:], write, 0, outputs)
    return repeat(functools.partial(write, size), outputs, count, size)


def cut(table, start, size):
    """`size` rows of a table, from one on that is not negative."""
    starts = (start,) + (0,) * (table.ndim - 1)
    return lax.dynamic_slice(table, starts, (size, *table.shape[1:]), allow_negative_indices=False)


def overwrite(table, rows, start):
    """The table with other rows, from one on that is not negative."""
    starts = (start,) + (0,) * (table.ndim - 1)
    return lax.dynamic_update_slice(table, rows.astype(table.dtype), starts, allow_negative_indices=False)


def repeat(step, outputs, stop, stride=1):
    """`outputs = step(start, outputs)` for 0, `stride`, 2·`stride`, … below `stop`."""
    if not compiling(outputs):
        return functools.reduce(lambda outputs, start: step(start, outputs), range(0, int(stop), stride), outputs)

    def turn(state):
        start, outputs = state
        return start + stride, step(start, outputs)

    return lax.while_loop(lambda state: state[0] < stop, turn, (0, outputs))[1]


def steps(largest, levels):
    """0, `largest`·1/levels, ·2/levels, …, rounded up, each once."""
    return sorted({-(-largest * level // levels) for level in range(levels + 1)})


def image_sizes(length):
    """Rows for which attention is compiled, where an image has up to `length`; a third size saves 1 to 2 % of time."""
    return [-(-length * 2 // 3), length]


def choose_size(needed, sizes, branch, *operands):
    """Calls `branch(size, *operands)` with the smallest of some static sizes, ascending, that suffices."""
    level = jnp.sum(jnp.array(sizes) < needed.astype("int32"))
    return choose(level, [functools.partial(branch, size) for size in sizes], *operands)


def choose(index, branches, *operands):
    """Calls one of the branches with the operands; all give the same shapes."""
    if not compiling(index):  # lax.switch would compile all of them at every call
        return branches[int(index)](*operands)
    return lax.switch(index, branches, *operands)


def compiling(tensor):
    """If values are unknown here."""
    return isinstance(tensor, jax.core.Tracer)


def attend_each(qkv, rows, heads, head_keep, partial):
    """`attend` image by image, of a table (N, 3·H·d) with at least T rows more than the images have."""
    width, (images, length) = qkv.shape[1] // 3, rows.keep.shape
    ends = rows.running[:, -1]

    def attend(size, start, count, keep):
        """An image's attention, followed by zeros, so that shapes agree."""
        if size == 0:
            return jnp.zeros((length, width), qkv.dtype)
        part = cut(qkv, start, size).reshape(1, size, 3, heads, -1)
        query, key, value = part.transpose(2, 0, 3, 1, 4)  # (1, H, S, d) each
        attended = scaled_dot_product(query, key, value, jnp.arange(size) < count)
        if keep is not None:
            attended = keep_heads(attended, value, keep, partial)
        attended = attended[0].transpose(1, 0, 2).reshape(size, width)
        return jnp.pad(attended, ((0, length - size), (0, 0)))

    def update(image, outputs):
        """What is written beyond its rows is overwritten by the images that follow."""
        start = jnp.where(image > 0, ends[image - 1], 0)
        count = ends[image] - start
        keep = None if head_keep is None else head_keep[image].astype(qkv.dtype)[None, :, None, None]
        attended = choose_size(count, [0, *image_sizes(length)], attend, start, count, keep)
        return overwrite(outputs, attended, start)

    return repeat(update, jnp.zeros((qkv.shape[0], width), qkv.dtype), images)
