"""What every data source gives: `Splits`, two `tf.data` pipelines and the facts that go with them."""

from __future__ import annotations

import contextlib
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
        validation: Batches of the same form, `labels` always int32 `(B,)`: every image exactly once, in a
            fixed order, the last batch as short as it comes.
        class_names: The name of each label, K of them.
        train_examples: Images in the training split. An epoch of `train` may repeat them, or leave the odd
            ones of a last batch out.
        validation_examples: Images in `validation`.
        mean: The mean taken from the channels, in units of 0..1, so that a picture can put it back.
        std: What the channels were then divided by.
        skipped: Image files that could not be decoded and were left out.
        files: Image files of both, where images are files.
        crop_fraction: Side of the central square of `validation` over a photo's shorter side; 1 where nothing is cut.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    class_names: tuple[str, ...]
    train_examples: int
    validation_examples: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
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
    """Normalises uint8 images, or float images in 0..255, to float32: `(images / 255 - mean) / std`."""
    import tensorflow as tf

    scale = 1.0 / (255.0 * np.asarray(std, "float32"))
    shift = np.asarray(mean, "float32") / np.asarray(std, "float32")
    return tf.cast(images, tf.float32) * scale - shift


def with_seeds(dataset, seed: int):
    """Pairs each element with a seed `(2,)` for the stateless random operations of a `map`.

    The seeds differ from element to element and from one iteration to the next, and are the same in
    every process that starts from `seed`, however many threads the `map` runs on.
    """
    import tensorflow as tf

    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
    return tf.data.Dataset.zip(dataset, seeds)


def check_batch_size(splits: Splits, batch_size: int) -> None:
    """Refuses a batch that the training split cannot fill: an epoch would be empty."""
    if splits.train.cardinality() == 0:
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
