"""Packed execution on JAX, where shapes are static: sizes are rounded up to a few.

One compiled function holds a variant for every size and picks among them when it runs, so that policies may change from
batch to batch without compiling anew: a sub-layer has `ROW_LEVELS` variants for its row counts, one for no rows, and
one for all, which gathers nothing. On CPUs attention goes image by image, in a loop, each image in the smallest of
`IMAGE_LEVELS` sizes that holds its rows; on accelerators all images share that of the largest, see `attend.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from keras_adavit.layers.kernels import scaled_dot_product

ROW_LEVELS = 12  # at most 1/12 of a dense sub-layer's rows are computed in vain, 1/24 on average
IMAGE_LEVELS = 4
EVERYTHING = 2**31 - 1  # the row count of all rows, known to be all


def row_sizes(largest):
    """Row counts that have a variant, ascending: none, equal steps up to `largest`, `EVERYTHING`."""
    return [*steps(largest, ROW_LEVELS), EVERYTHING]


def steps(largest, levels):
    """0, `largest`·1/levels, ·2/levels, …, rounded up, each once."""
    return sorted({-(-largest * level // levels) for level in range(levels + 1)})


def choose(needed, candidates, branch, *operands):
    """Calls `branch(size, *operands)` with the smallest size that suffices.

    Args:
        needed: Integer scalar, known when it runs.
        candidates: Static sizes, ascending, the last never too small.
        branch: Function of a static size and the operands.
        *operands: Tensors.

    Returns:
        What the branch returns, the same shape for every size.
    """
    level = jnp.sum(jnp.array(candidates) < needed.astype("int32"))
    if not compiling(level):  # lax.switch would compile all of them at every call
        return branch(candidates[int(level)], *operands)
    return lax.switch(level, [functools.partial(branch, size) for size in candidates], *operands)


def compiling(tensor):
    """If values are unknown here."""
    return isinstance(tensor, jax.core.Tracer)


def attend_each(qkv, rows, heads):
    """Attention of each image's rows to each other, image by image.

    Args:
        qkv: Tensor (N, 3·H·d).
        rows: The `Rows`.
        heads: H.

    Returns:
        Tensor (N, H·d).
    """
    count, width = qkv.shape[0], qkv.shape[1] // 3
    sizes = steps(min(rows.keep.shape[1], count), IMAGE_LEVELS)
    window = sizes[-1]

    def attend(size, start, end, written):
        """An image's attention, in the window of rows that is written: as many for all sizes, so that shapes agree."""
        outputs = jnp.zeros((window, width), qkv.dtype)
        if size == 0:
            return outputs
        first = jnp.minimum(start, count - size)
        part = lax.dynamic_slice_in_dim(qkv, first, size).reshape(1, size, 3, heads, -1)
        query, key, value = part.transpose(2, 0, 3, 1, 4)  # (1, H, S, d) each
        attended = scaled_dot_product(query, key, value, between(first, size, start, end))[0]
        attended = attended.transpose(1, 0, 2).reshape(size, width)
        return lax.dynamic_update_slice_in_dim(outputs, attended, first - written, 0)

    def update(image, outputs):
        start, end = ends[image] - counts[image], ends[image]
        written = jnp.minimum(start, count - window)
        attended = choose(end - start, sizes, attend, start, end, written)
        own = between(written, window, start, end)[:, None]  # the rest of the window belongs to other images
        attended = jnp.where(own, attended, lax.dynamic_slice_in_dim(outputs, written, window))
        return lax.dynamic_update_slice_in_dim(outputs, attended, written, 0)

    counts = rows.counts
    ends = jnp.cumsum(counts)
    outputs = jnp.zeros((count, width), qkv.dtype)
    if compiling(qkv):
        return lax.fori_loop(0, ends.size, update, outputs)
    return functools.reduce(lambda outputs, image: update(image, outputs), range(ends.size), outputs)


def between(first, size, start, end):
    """Which of the places `first`, `first` + 1, … (`size` of them) lie in `start` to `end`, that excluded."""
    place = first + jnp.arange(size)
    return (place >= start) & (place < end)
