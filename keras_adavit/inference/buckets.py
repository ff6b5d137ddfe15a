"""Static shapes for packed execution on JAX: row counts are rounded up to a few sizes.

One compiled function holds a variant for every size and picks among them when it runs, so that policies may change from
batch to batch without compiling anew. An attention has `ROW_LEVELS` variants of its linear layers, each with at most
`SLOT_LEVELS` of the scores; an MLP has `ROW_LEVELS`; and either has one more, for no rows at all.
"""

import functools

import jax
import jax.numpy as jnp

ROW_LEVELS = 8  # at most 1/8 of a dense sub-layer's rows are computed in vain, 1/16 on average
SLOT_LEVELS = 4


def row_sizes(largest):
    """Row counts that have a variant, ascending: no row at all, then equal steps up to `largest`."""
    return [0, *steps(largest, ROW_LEVELS)]


def slot_sizes(largest, images, rows):
    """Slots an image that have a variant, ascending, in equal steps up to `largest`.

    Without those that are too few for certain: where `rows`, one of `row_sizes`, was chosen, so many rows do not fit
    into the next smaller number, and one of `images` has no fewer than their mean.
    """
    smaller = [size for size in row_sizes(largest * images) if size < rows]
    return [slots for slots in steps(largest, SLOT_LEVELS) if slots * images > smaller[-1]]


def steps(largest, levels):
    """`largest`·1/levels, ·2/levels, …, rounded up, each once."""
    return sorted({-(-largest * level // levels) for level in range(1, levels + 1)})


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
    level = jnp.searchsorted(jnp.array(candidates), needed.astype("int32"))
    if not isinstance(level, jax.core.Tracer):  # eager: lax.switch would compile all of them at every call
        return branch(candidates[int(level)], *operands)
    return jax.lax.switch(level, [functools.partial(branch, size) for size in candidates], *operands)
