"""What every data source gives: `Splits`, two `tf.data` pipelines and the facts that go with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_adavit.data.preprocessing import Preprocessing
from keras_adavit.errors import InputError
from keras_adavit.startup import without_remarks

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Splits:
    """The training and the validation half of a data source.

    Attributes:
        train: Batches `(images, labels)`, shuffled and augmented anew at every iteration, whole batches
            only. `images`: float32 `(B, S, S, C)`, normalised; `labels`: int32 `(B,)`, or float32 `(B, K)`
            that sum to 1 where images are mixed (MixUp, CutMix).
        train_epoch: Function of an epoch's number, an int64 scalar tensor, that gives the batches of that epoch:
            for one number always the same ones, but for TensorFlow Datasets. See `from_epoch`.
        validation: Batches of the same form, `labels` always int32 `(B,)`, or where images have several, which is for
            evaluation alone, `(B, K)`, 1 for each: every image exactly once, in a
            fixed order that mixes the classes, the last batch as short as it comes.
        calibration: Training images in an order of their own, each once at most, prepared as those of `validation`:
            what thresholds are fitted to.
        class_names: The name of each label, K of them.
        train_examples: Images in the training split. An epoch of `train` may repeat them, or leave the odd
            ones of a last batch out.
        validation_examples: Images in `validation`.
        mean: The mean taken from the channels, in units of 0..1, so that a picture can put it back.
        std: What the channels were then divided by.
        skipped: Image files that could not be decoded and were left out.
        files: Image files of both, where images are files; those of `validation` last, in its order.
        split_table: What was held out, as CSV (`split,class,file`), where the source split the images itself.
        find_damage: Function that reads everything again and gives the error that names what is damaged, or `None`,
            where images are not files.
        crop_fraction: Side of the central square of `validation` over a photo's shorter side; 1 where nothing is cut.
    """

    train: tf.data.Dataset
    train_epoch: Callable[[tf.Tensor], tf.data.Dataset]
    validation: tf.data.Dataset
    calibration: tf.data.Dataset
    class_names: tuple[str, ...]
    train_examples: int
    validation_examples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    split_table: str | None = None
    find_damage: Callable[[], InputError | None] | None = None
    crop_fraction: float = 1.0

    @property
    def preprocessing(self) -> Preprocessing:
        """What became of the images of `validation`: what a model trained on this data is to know."""
        return Preprocessing(crop_fraction=self.crop_fraction, mean=self.mean, std=self.std)


def denormalize(images, mean, std) -> np.ndarray:
    """Gives back pixels in 0..1, clipped, of normalised images `(..., C)`, as a float32 NumPy array."""
    images = keras.ops.convert_to_numpy(images)
    return np.clip(images * np.asarray(std, "float32") + np.asarray(mean, "float32"), 0.0, 1.0)


def normalize(images, mean, std):
    """Normalises uint8 images, or float images in 0..255, to float32: `(images / 255 - mean) / std`.

    Images are `(..., H, W, C)`; W must be known.
    """
    import tensorflow as tf

    # Row by row, which takes a sixth of the time that it takes pixel by pixel.
    width = images.shape[-2]
    scale = np.tile(1.0 / (255.0 * np.asarray(std, "float32")), width)
    shift = np.tile(np.asarray(mean, "float32") / np.asarray(std, "float32"), width)
    rows = tf.reshape(tf.cast(images, tf.float32), (-1, width * images.shape[-1]))
    return tf.reshape(rows * scale - shift, tf.shape(images))


def epoch_seed(seed: int, number):
    """The seed of one epoch, int32 `(2,)`, from the seed of the run and the epoch's number."""
    import tensorflow as tf

    return tf.random.fold_in([seed, 0], number)


def shuffled_indices(count: int, seed):
    """The integers from 0 to `count` - 1 in a random order that a seed `(2,)` decides, as a dataset."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(tf.random.experimental.stateless_shuffle(tf.range(count), seed))


def with_seeds(dataset, seed):
    """Pairs each element with a seed `(2,)` for the stateless random operations of a `map`.

    The seeds differ from element to element, and are the same in every process and iteration that starts from a `seed`
    `(2,)`, however many threads the `map` runs on.
    """
    import tensorflow as tf

    seeds = tf.data.Dataset.counter().map(lambda number: tf.random.fold_in(seed, number))
    return tf.data.Dataset.zip(dataset, seeds)


def drawn_anew(train_epoch, batches: int, seed: int):
    """A dataset of so many `batches`, each iteration of which is an epoch by a number of its own, drawn from `seed`."""
    import tensorflow as tf

    number = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
    return number.flat_map(train_epoch).apply(tf.data.experimental.assert_cardinality(batches))


def from_epoch(splits: Splits, epoch: int, batch: int = 0, batches: int | None = None):
    """The training batches from a batch of an epoch on, epoch after epoch without end, for `steps_per_epoch`.

    A training that starts in the middle sees what one sees there that came from the beginning.

    Args:
        splits: The `Splits`.
        epoch: Number of the first epoch, counted from 0.
        batch: Number of its first batch.
        batches: Batches of each epoch; all if not given.
    """
    import tensorflow as tf

    def one(number):
        return splits.train_epoch(number).take(-1 if batches is None else batches)

    return tf.data.Dataset.range(epoch, tf.int64.max).flat_map(one).skip(batch)


def check_batch_size(splits: Splits, batch_size: int) -> None:
    """Refuses a batch that the training split cannot fill: an epoch would be empty."""
    if len(splits.train) == 0:
        raise InputError(
            f"`batch_size` must be at most the number of training images, {splits.train_examples}. "
            f"Received: batch_size={batch_size}"
        )


def start_tensorflow() -> None:
    """Starts TensorFlow, which every source reads with, without its remarks.

    When another backend computes, TensorFlow is kept from taking the accelerator's memory.
    """
    with without_remarks():
        import tensorflow as tf

        if keras.backend.backend() != "tensorflow":
            # A `RuntimeError` says that TensorFlow runs already: whoever started it has decided.
            with contextlib.suppress(RuntimeError):
                tf.config.set_visible_devices([], "GPU")
        tf.config.list_physical_devices()
