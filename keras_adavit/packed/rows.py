"""The rows of a sub-layer: the tokens that it computes, of all images, one after the other."""

import dataclasses
from typing import Any

from keras import ops

from keras_adavit.kernels.dispatch import gather


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which of the B·T tokens of a batch a sub-layer computes.

    A broken image, which holds a NaN or an infinity, has no rows, so that no other image can read them.

    Attributes:
        keep: (B, T) 1 for each token that has a row, else 0.
        broken: (B,) true for broken images.
        indices: (N,) the token of each row, ascending.
        is_full: Whether every token is known to have a row, so that nothing has to be gathered.
    """

    keep: Any
    broken: Any
    indices: Any
    is_full: bool = False

    def as_full(self):
        """The same rows in a table that holds no others."""
        return dataclasses.replace(self, is_full=True)

    @property
    def row_ids(self):
        """The row of every token, counted from 1, or 0 where it has none: int32 (B·T,)."""
        keep = ops.cast(ops.reshape(self.keep, (-1,)), "int32")
        return keep * ops.cumsum(keep)

    @property
    def image_ids(self):
        """The image of each row, (N,)."""
        return self.indices // self.keep.shape[1]

    @property
    def counts(self):
        """How many rows each image has, (B,)."""
        return ops.cast(ops.sum(self.keep, axis=1), self.indices.dtype)


def find_broken(tokens):
    """Which images hold a NaN or an infinity: (B, T, D) → boolean (B,).

    Masked attention carries it to all tokens of the image, and packed execution has to do the same.
    """
    return ops.logical_not(ops.all(ops.isfinite(ops.sum(tokens, axis=2)), axis=1))


def nan_where(broken, dtype):
    """NaN for broken images, 0 for others: boolean (B,) → (B, 1)."""
    return ops.cast(ops.where(broken, float("nan"), 0.0), dtype)[:, None]


def gather_rows(table, rows):
    """The values (N, D) of `rows` in a `table` (M, D)."""
    return table if rows.is_full else gather(table, rows.indices)


def add_to_all(table, rows, values):
    """`table` (B·T, D) plus `values` (N, D) in their rows, 0 in other rows, NaN in broken images.

    One pass over the table that every core takes part in, where a scatter uses one.
    """
    others = ops.broadcast_to(ops.convert_to_tensor([[0.0], [float("nan")]], values.dtype), (2, table.shape[1]))
    broken = ops.cast(rows.broken, "int32")[:, None]
    ids = ops.reshape(rows.row_ids, (-1, rows.keep.shape[1])) + 1  # (B, T), 1 where there is no row
    ids = ops.reshape(ops.where(ids > 1, ids, broken), (-1,))
    return table + gather(ops.concatenate([others, values]), ids)


def keep_of_rows(head_keep, rows, dtype):
    """Which heads the image of each row uses: (B, U) → (N, U, 1), or (1, U, 1) if there is one image."""
    head_keep = ops.expand_dims(ops.cast(head_keep, dtype), -1)
    return head_keep if head_keep.shape[0] == 1 else gather(head_keep, rows.image_ids)
