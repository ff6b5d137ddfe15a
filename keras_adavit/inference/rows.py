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
        everything: If they are known to be all tokens, so that nothing has to be gathered: never on TensorFlow, whose
            graph would have to hold both.
    """

    keep: Any
    places: Any
    everything: bool = False

    @property
    def images(self):
        """The image of each row, (N,)."""
        return self.places // self.keep.shape[1]

    @property
    def counts(self):
        """How many rows each image has, (B,)."""
        return ops.cast(ops.sum(self.keep, axis=1), self.places.dtype)


def rows_of(keep, size=None):
    """The `Rows` that a keep (B, T) of 0 and 1 selects; `size` as of `select`."""
    places = select(ops.reshape(keep, (-1,)) > 0.5, size)
    return Rows(keep, places, keras.backend.backend() == "torch" and len(places) == keep.numel())


def all_rows(keep):
    """The `Rows` of a keep (B, T) that is 1 everywhere, on JAX."""
    return Rows(keep, ops.arange(keep.size), everything=True)


def select(mask, size=None):
    """Places of the true elements.

    Args:
        mask: Boolean tensor (M,).
        size: Static number of places, at least the number of true elements; read on JAX only, and required there.

    Returns:
        Integer tensor (N,), ascending.
    """
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.nonzero(mask, size=size, fill_value=mask.shape[0])[0]
    if keras.backend.backend() == "torch":
        return mask.nonzero()[:, 0]
    import tensorflow as tf

    return tf.reshape(tf.cast(tf.where(mask), tf.int32), (-1,))


def gather(table, places, axis=0):
    """Rows of `table` (M, ...) at `places`, an integer tensor of any shape, or what lies there along another axis."""
    if keras.backend.backend() == "jax":
        return table.at[(slice(None),) * axis + (places,)].get(mode="clip")
    if keras.backend.backend() == "torch":
        # Half the time of `table[places]`.
        found = table.index_select(axis, places.reshape(-1))
        return found.reshape(*table.shape[:axis], *places.shape, *table.shape[axis + 1 :])
    import tensorflow as tf  # keras.ops.take looks for negative places first, a pass more

    return tf.gather(table, places, axis=axis)


def read(table, rows):
    """The values (N, D) of some `Rows` in a `table` (M, D)."""
    return table if rows.everything else gather(table, rows.places)


def add(table, rows, values):
    """`table` (M, D) with `values` (N, D) added at the places of some `Rows`; torch may change the table itself."""
    values = ops.cast(values, table.dtype)
    if rows.everything:
        return table + values
    if keras.backend.backend() == "torch":
        return table.index_add_(0, rows.places, values)
    if keras.backend.backend() == "jax":
        return add_everywhere(table, rows.keep, values)
    import tensorflow as tf

    return tf.cond(
        tf.shape(rows.keep)[0] == 1,  # fewer operations count for more than all cores
        lambda: tf.tensor_scatter_nd_add(table, rows.places[:, None], values),
        lambda: add_everywhere(table, rows.keep, values),
    )


def add_everywhere(table, keep, values):
    """`add` in one pass that reads a row of zeros where nothing is added: on all cores, which no scatter uses."""
    keep = ops.reshape(keep, (-1,))
    keep = ops.cast(keep, "int32")
    values = ops.concatenate([ops.zeros((1, table.shape[1]), values.dtype), values])
    return table + gather(values, ops.cumsum(keep) * keep)
