"""Data from shards: TFRecord files that `keras-adavit shards` writes of a folder of images."""

from __future__ import annotations

import math
import os
from pathlib import Path

from keras_adavit.data.decode import decode
from keras_adavit.data.part import WHOLE, Part
from keras_adavit.data.photos import Photos
from keras_adavit.data.pipeline import Splits, start_tensorflow
from keras_adavit.data.shard_files import LEAST, Written, check_size, damaged, find_damage, parse_record, read_index
from keras_adavit.errors import InputError, printable
from keras_adavit.settings import FileName, settings

SHUFFLE_BUFFER = 8192  # encoded images held for shuffling: about 1 GB of ImageNet; the files are shuffled as well


@settings
class Shards(Photos):
    """A folder of shards; their images are read in the order of the files, which takes a disk less time."""

    path: FileName = ""
    """The folder that `keras-adavit shards` wrote."""

    def load(self, batch_size: int, seed: int, part: Part = WHOLE) -> Splits:
        """Makes the two pipelines.

        The training images of an epoch come from several streams in turns. Each stream has its own files, in an order
        and through a buffer of a seed of their own, so that an epoch's order follows from its number.

        Args:
            batch_size: Images in a batch.
            seed: Of the order and the augmentation of the training images.
            part: What of each training batch is given.

        Returns:
            `Splits` with images float32 `(B, image_size, image_size, 3)`, normalised.

        Raises:
            InputError: If the folder has no finished shards, or a file is missing or of another size.
        """
        start_tensorflow()
        import tensorflow as tf

        folder = Path(os.path.expanduser(self.path))
        index = read_index(folder)
        for written in (*index.train, *index.validation):
            check_size(folder, written)
        if not index.train or not index.validation:
            raise InputError(f"`path` must have shards of both splits. Received: path={printable(folder)!r}")
        count = min(written.images for written in index.train) * len(index.train)  # whatever files a stream has

        def shuffled(seed):
            return read_shuffled(folder, index.train, seed).take(count).map(parse_record, tf.data.AUTOTUNE)

        train_epoch = self.train_batches(shuffled, len(index.class_names), batch_size, seed, part)
        held_out = tf.data.TFRecordDataset(paths(folder, index.validation)).map(parse_record, tf.data.AUTOTUNE)
        validation_examples = sum(written.images for written in index.validation)
        held_out = held_out.apply(tf.data.experimental.assert_cardinality(validation_examples))
        return self.splits(
            train_epoch,
            held_out,
            shuffled([seed, 1]),
            batch_size,
            seed,
            steps=count // batch_size,
            train_examples=sum(written.images for written in index.train),
            class_names=index.class_names,
            validation_examples=validation_examples,
            find_damage=lambda: find_first_damage(folder, (*index.train, *index.validation)),
        )


def paths(folder: Path, shards: tuple[Written, ...]) -> list[str]:
    return [str(folder / written.name) for written in shards]


def read_shuffled(folder: Path, shards: tuple[Written, ...], seed):
    """The records of shards in a random order that a seed `(2,)` decides, as a dataset: streams in turns."""
    import tensorflow as tf

    streams = math.gcd(len(shards), LEAST)
    seeds = tf.random.split(seed, 2)
    order = tf.random.experimental.stateless_shuffle(tf.range(len(shards)), seeds[0])
    files = tf.reshape(tf.gather(paths(folder, shards), order), (-1, streams))
    buffers = tf.random.stateless_uniform((streams,), seeds[1], minval=None, maxval=None, dtype=tf.int64)

    def stream(number):
        # Of the graph of this function: a seed of the whole process must not come into the order.
        tf.compat.v1.set_random_seed(None)
        records = tf.data.TFRecordDataset(files[:, number])
        return records.shuffle(SHUFFLE_BUFFER // streams, buffers[number], reshuffle_each_iteration=False)

    return tf.data.Dataset.range(streams).interleave(
        stream, cycle_length=streams, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def find_first_damage(folder: Path, shards: tuple[Written, ...]) -> InputError | None:
    """The error that names the first damaged shard and the record in it, or the first image that is none."""
    import tensorflow as tf

    for written in shards:
        path = folder / written.name
        reason = find_damage(path, written.images)
        if reason is not None:
            return damaged(path, reason)
        for number, record in enumerate(tf.data.TFRecordDataset(str(path))):
            try:
                decode(parse_record(record)[0])
            except tf.errors.OpError:
                return damaged(path, f"record {number} holds no image that can be decoded")
    return None
