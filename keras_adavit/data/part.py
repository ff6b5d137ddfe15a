"""Which part of every training batch a process reads, where several train one model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One of equal parts of each batch, images that lie side by side.

    Attributes:
        index: Number of the part, counted from 0.
        count: Parts; the size of a batch must be a multiple of it.
    """

    index: int = 0
    count: int = 1

    def size(self, batch_size: int) -> int:
        """Images in the part of a batch."""
        return batch_size // self.count

    def of(self, batches, batch_size: int):
        """This part of the batches of a dataset, each of `batch_size`."""
        import tensorflow as tf

        if self.count == 1:
            return batches
        size = self.size(batch_size)
        own = slice(self.index * size, (self.index + 1) * size)
        return batches.map(lambda *batch: tf.nest.map_structure(lambda array: array[own], batch))


WHOLE = Part()
