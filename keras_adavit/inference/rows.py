"""Selecting, gathering and writing back rows: the few places where packed execution differs between backends.

TensorFlow and torch know how many rows are selected when they run; JAX has to know it when it compiles, so that there
every selection has a `size`: places left over point behind the last row, are read as that row, and written nowhere.
"""

import keras
from keras import ops


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
        return table[places]
    import tensorflow as tf  # keras.ops.take looks for negative places first, a pass more

    return tf.gather(table, places)


def put(table, places, rows):
    """`table` (M, D) with `rows` (N, D) at `places` (N,)."""
    if keras.backend.backend() == "jax":
        return table.at[places].set(rows, mode="drop", unique_indices=True)
    if keras.backend.backend() == "torch":
        return table.index_copy(0, places, rows)
    return ops.scatter_update(table, places[:, None], rows)


def add(table, places, rows):
    """`table` (M, D) with `rows` (N, D) added at `places` (N,), all different."""
    if keras.backend.backend() == "jax":
        return table.at[places].add(rows, mode="drop", unique_indices=True)
    if keras.backend.backend() == "torch":
        return table.index_add(0, places, rows)
    return ops.scatter_update(table, places[:, None], rows, reduction="add")
