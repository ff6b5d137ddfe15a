"""Rows that a sub-layer computes: selecting, gathering and writing them back.

Here packed execution differs between backends. TensorFlow and torch know how many rows are selected when they run; JAX
has to know it when it compiles, so that there every selection has a `size`: places left over point behind the last
row, are read as that row, and written nowhere.
"""

import dataclasses
from typing import Any

import keras
from keras import ops


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows that a sub-layer computes.

    Attributes:
        keep: (B, T) 1 for each of them, else 0.
        places: (N,) their places among the B·T tokens, ascending.
        images: (N,) the image of each.
        counts: (B,) how many each image has.
    """

    keep: Any
    places: Any
    images: Any
    counts: Any


def rows_of(keep, size=None):
    """The `Rows` that a keep (B, T) of 0 and 1 selects; `size` as of `select`."""
    places = select(ops.reshape(keep, (-1,)), size)
    return Rows(keep, places, places // keep.shape[1], ops.cast(ops.sum(keep, axis=1), places.dtype))


def select(mask, size=None):
    """Places of the non-zero elements.

    Args:
        mask: Tensor (M,), any dtype.
        size: Static number of places, at least the number of non-zero elements; read on JAX only, and required there.

    Returns:
        Integer tensor (N,), ascending.
    """
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.nonzero(mask, size=size, fill_value=mask.shape[0])[0]
    if keras.backend.backend() == "torch":
        return mask.nonzero()[:, 0]
    return ops.nonzero(mask)[0]


def gather(table, places):
    """Rows of `table` (M, ...) at `places`, an integer tensor of any shape."""
    if keras.backend.backend() == "jax":
        return table.at[places].get(mode="clip")
    if keras.backend.backend() == "torch":
        # Half the time of `table[places]`.
        return table.index_select(0, places.reshape(-1)).reshape(*places.shape, *table.shape[1:])
    import tensorflow as tf  # keras.ops.take looks for negative places first, a pass more

    return tf.gather(table, places)


def add(table, rows, values):
    """`table` (M, D) with `values` (N, D) added at the places of some `Rows`; torch changes the table itself."""
    values = ops.cast(values, table.dtype)
    if keras.backend.backend() == "torch":
        return table.index_add_(0, rows.places, values)
    # One pass that writes a new table, and reads a row of zeros where nothing is added: it runs on all cores, which no
    # scatter of TensorFlow or XLA does.
    keep = ops.reshape(rows.keep, (-1,)) > 0.5
    values = ops.concatenate([values, ops.zeros((1, table.shape[1]), values.dtype)])
    number = ops.cumsum(ops.cast(keep, rows.places.dtype)) - 1
    return table + gather(values, ops.where(keep, number, ops.shape(values)[0] - 1))
