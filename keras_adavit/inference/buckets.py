"""Packed execution on JAX, where shapes are static: sizes are rounded up, rows to pieces of a few sizes.

One compiled function serves every policy, so that policies may change from batch to batch without compiling anew. The
rows of a sub-layer are computed in pieces, one for each 1 among the binary digits of their count, so that a few
compiled pieces make up any count; those of one image, for which reading the weights again would take too long, at once,
in the smallest of `ROW_LEVELS` sizes. A sub-layer has a variant for no rows too, and one for all, which gathers
nothing. On CPUs attention goes image by image, in a loop, each image in the smallest of `IMAGE_LEVELS` sizes that holds
its rows; on accelerators all images share that of the largest, see `attend.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from keras_adavit.inference.attend import keep_heads
from keras_adavit.layers.kernels import scaled_dot_product

ROW_DIGITS = 5  # a 31st of the rows is the smallest piece; half of it is computed in vain, on average
ROW_LEVELS = 8  # of one image
IMAGE_LEVELS = 4  # for attention


def smallest_piece(length):
    """Rows of the smallest piece, where there are up to `length` rows."""
    return -(-length // (2**ROW_DIGITS - 1))


def places(batch, length):
    """Rows to lay out for images of up to `length` rows each: those of all pieces, and once more those of an image."""
    return smallest_piece(batch * length) * (2**ROW_DIGITS - 1) + length


def running_count(keep):
    """How many tokens of a keep (B, T) are kept up to each of them, that included: int32 (B, T).

    In products, since XLA has five kernels for a cumulated sum on CPUs, and each kernel takes a MiB to compile.
    """
    batch, length = keep.shape
    within = jnp.matmul(keep, np.triu(np.ones((length, length), "float32")), precision="highest")
    before = jnp.matmul(within[:, -1], np.triu(np.ones((batch, batch), "float32"), 1), precision="highest")
    return (within + before[:, None]).astype("int32")


def in_pieces(function, rows, *tables):
    """`function(rows, *tables)`, where each row of the result depends on that row alone.

    Args:
        function: Function of `Rows` and of tables of values of these rows, returns another table.
        rows: The `Rows`, with as many places as all pieces have.
        *tables: Tensors (N, ...), values of these rows, or (1, ...), one of all rows.

    Returns:
        Tensor (N, ...), zero where nothing was computed.
    """

    def part(start, size):
        parts = (table if len(table) == 1 else lax.dynamic_slice_in_dim(table, start, size) for table in tables)
        return function(rows.part(start, size), *parts)

    def write(outputs, start, size):
        return lax.dynamic_update_slice_in_dim(outputs, part(start, size), start, 0)

    (images, length), count = rows.keep.shape, rows.running[-1, -1]
    unit = smallest_piece(images * length)
    like = jax.eval_shape(lambda: part(0, unit))
    outputs = jnp.zeros((len(rows.places), *like.shape[1:]), like.dtype)
    if images == 1:
        return choose_size(count, steps(length, ROW_LEVELS)[1:], lambda size, outputs: write(outputs, 0, size), outputs)
    units, start = (count + unit - 1) // unit, 0
    for digit in reversed(range(ROW_DIGITS)):
        size, used = unit << digit, units >> digit & 1
        compute = functools.partial(write, start=start, size=size)
        outputs = choose(used, [lambda outputs: outputs, compute], outputs)
        start = start + used * size
    return outputs


def steps(largest, levels):
    """0, `largest`·1/levels, ·2/levels, …, rounded up, each once."""
    return sorted({-(-largest * level // levels) for level in range(levels + 1)})


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
    width, length = qkv.shape[1] // 3, rows.keep.shape[1]
    counts, ends = rows.counts, rows.running[:, -1]

    def attend(size, start, count, keep):
        """An image's attention, followed by zeros, so that shapes agree."""
        if size == 0:
            return jnp.zeros((length, width), qkv.dtype)
        part = lax.dynamic_slice_in_dim(qkv, start, size).reshape(1, size, 3, heads, -1)
        query, key, value = part.transpose(2, 0, 3, 1, 4)  # (1, H, S, d) each
        attended = scaled_dot_product(query, key, value, jnp.arange(size) < count)
        if keep is not None:
            attended = keep_heads(attended, value, keep, partial)
        attended = attended[0].transpose(1, 0, 2).reshape(size, width)
        return jnp.pad(attended, ((0, length - size), (0, 0)))

    def update(image, outputs):
        """What is written beyond its rows is overwritten by the images that follow."""
        start, count = ends[image] - counts[image], counts[image]
        keep = None if head_keep is None else head_keep[image].astype(qkv.dtype)[None, :, None, None]
        attended = choose_size(count, steps(length, IMAGE_LEVELS), attend, start, count, keep)
        return lax.dynamic_update_slice_in_dim(outputs, attended, start, 0)

    outputs = jnp.zeros((qkv.shape[0], width), qkv.dtype)
    if compiling(qkv):
        return lax.fori_loop(0, ends.size, update, outputs)
    return functools.reduce(lambda outputs, image: update(image, outputs), range(ends.size), outputs)
