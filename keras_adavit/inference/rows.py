"""Rows that a sub-layer computes: selecting, gathering and writing them back.

Here packed execution differs between backends. TensorFlow and torch know how many rows are selected when they run; JAX
has to know it when it compiles, so that there a selection has at least B·T places, and is computed in pieces as far as
it is used, see `buckets.py`: places left over are read as the first row, and written nowhere.
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
        broken: (B,) true for images that hold a NaN or an infinity. They have no rows, so that no other image can read
            theirs; what is added to them is NaN.
        places: (N,) their places among the B·T tokens, ascending.
        everything: If they are known to be all that the table holds, so that nothing has to be gathered.
        running: (B, T) on JAX, how many of them there are up to each token, that included.
        start: On JAX, the number of the first, where they are a part.
    """

    keep: Any
    broken: Any
    places: Any
    everything: bool = False
    running: Any = None
    start: Any = None

    def part(self, start, size):
        """`size` of the rows, from one on; on JAX."""
        from keras_adavit.inference import buckets

        return dataclasses.replace(self, places=buckets.cut(self.places, start, size), start=start)

    def all(self):
        """The same in a table that holds no others."""
        return dataclasses.replace(self, everything=True)

    @property
    def numbers(self):
        """Of every token the number of its row, from 1, or 0 where it has none: int32 (B·T,)."""
        keep = ops.cast(ops.reshape(self.keep, (-1,)), "int32")
        return keep * (ops.cumsum(keep) if self.running is None else ops.reshape(self.running, (-1,)))

    @property
    def images(self):
        """The image of each row, (N,)."""
        return self.places // self.keep.shape[1]

    @property
    def counts(self):
        """How many rows each image has, (B,)."""
        return ops.cast(ops.sum(self.keep, axis=1), self.places.dtype)


def rows_of(keep, broken):
    """The `Rows` that a keep (B, T) of 0 and 1 selects, but for broken images (B,); on JAX followed by others, as many
    as pieces hold."""
    keep = ops.where(broken[:, None], 0.0, keep)
    if keras.backend.backend() == "jax":
        from keras_adavit.inference import buckets

        running, size = buckets.running_count(keep), keep.size
        # Places left over are read as the first row, which is of an image that is not broken.
        places = ops.full((buckets.places(*keep.shape),), ops.argmax(ops.reshape(keep, (-1,))), "int32")
        rows = Rows(keep, broken, places, running=running)
        found = places.at[rows.numbers - 1].set(ops.arange(size), mode="drop", wrap_negative_indices=False)
        return dataclasses.replace(rows, places=found)
    places = select(ops.reshape(keep, (-1,)) > 0.5)
    return Rows(keep, broken, places, keras.backend.backend() == "torch" and len(places) == keep.numel())


def broken_images(tokens):
    """Which images hold a NaN or an infinity: (B, T, D) → boolean (B,).

    Masked attention carries it to all tokens of the image, and so has packed execution to.
    """
    return ops.logical_not(ops.all(ops.isfinite(ops.sum(tokens, axis=2)), axis=1))


def select(mask):
    """Places (N,) of the true elements of a boolean tensor (M,), ascending; not on JAX."""
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


def by_rows(function, rows, table=None):
    """`function(rows, table)`, which computes each row by itself: on JAX in pieces, see `buckets.in_pieces`."""
    if keras.backend.backend() == "jax":
        from keras_adavit.inference import buckets

        return buckets.in_pieces(function, rows, table)
    return function(rows, table)


def own(values, rows):
    """Those of `rows`, which may be a part, of the values (N, ...) of all rows."""
    if rows.start is None:
        return values
    from keras_adavit.inference import buckets

    return buckets.cut(values, rows.start, len(rows.places))


def read(table, rows):
    """The values (N, D) of some `Rows` in a `table` (M, D)."""
    return table if rows.everything else gather(table, rows.places)


def keep_of_rows(head_keep, rows, dtype):
    """Of every row the keep of its image's heads, (B, U) → (N, U, 1), or (1, U, 1) where one image is all there is."""
    head_keep = ops.expand_dims(ops.cast(head_keep, dtype), -1)
    return head_keep if head_keep.shape[0] == 1 else gather(head_keep, rows.images)


def replace(table, rows, values):
    """`table` (M, D) with `values` (N, D) at the places of some `Rows`; not on JAX. Torch changes the table itself."""
    if rows.everything:
        return values
    if keras.backend.backend() == "torch":
        return table.index_copy_(0, rows.places, values)
    import tensorflow as tf

    return tf.tensor_scatter_nd_update(table, rows.places[:, None], values)


def add(table, rows, values):
    """`table` (M, D) with `values` (N, D) added at the places of some `Rows`, and NaN everywhere in broken images.

    Torch may change the table itself.
    """
    values = ops.cast(values, table.dtype)
    if rows.everything:
        return table + values
    if keras.backend.backend() == "torch":
        table.index_add_(0, rows.places, values)
        if bool(rows.broken.any()):
            table[rows.broken.repeat_interleave(rows.keep.shape[1])] = float("nan")
        return table
    if keras.backend.backend() == "jax":
        return add_everywhere(table, rows, values)
    import tensorflow as tf

    return ops.cond(
        ops.shape(rows.keep)[0] == 1,  # fewer operations count for more than all cores
        lambda: tf.tensor_scatter_nd_add(table, rows.places[:, None], values) + nan_where(rows.broken, table.dtype),
        lambda: add_everywhere(table, rows, values),
    )


def add_everywhere(table, rows, values):
    """`add` in one pass on all cores, which no scatter uses: where nothing is added it reads a row of zeros, and in
    broken images one of NaN."""
    others = ops.broadcast_to(ops.convert_to_tensor([[0.0], [float("nan")]], values.dtype), (2, table.shape[1]))
    broken = ops.cast(rows.broken, "int32")[:, None]
    numbers = ops.reshape(rows.numbers, (-1, rows.keep.shape[1])) + 1  # (B, T), 1 where nothing is added
    numbers = ops.where(numbers > 1, numbers, broken)
    return table + gather(ops.concatenate([others, values]), ops.reshape(numbers, (-1,)))


def nan_where(broken, dtype):
    """NaN where an image is broken, else 0: boolean (B,) → (B, 1)."""
    return ops.cast(ops.where(broken, float("nan"), 0.0), dtype)[:, None]
