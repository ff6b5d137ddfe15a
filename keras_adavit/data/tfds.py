"""Data from TensorFlow Datasets: ImageNet and every other data set with an image and a label."""

from __future__ import annotations

from pathlib import Path

from keras_adavit.data.part import WHOLE, Part
from keras_adavit.data.photos import Photos
from keras_adavit.data.pipeline import Splits, start_tensorflow
from keras_adavit.errors import InputError
from keras_adavit.settings import FileName, settings

SHUFFLE_BUFFER = 8192  # encoded images held for shuffling: about 1 GB of ImageNet; its files are shuffled as well


@settings
class Tfds(Photos):
    """A data set of TensorFlow Datasets, downloaded and prepared where that is possible."""

    name: str = "imagenet2012"
    """Name of the data set, with configuration and version where needed: `name/config:1.0.0`."""
    data_dir: FileName | None = None
    """Where data sets are kept; `~/tensorflow_datasets` by default."""
    train_split: str = "train"
    """Split to train on; parts such as `train[:90%]` work."""
    validation_split: str = "validation"
    """Split to evaluate on; many data sets call it `test`."""

    def load(self, batch_size: int, seed: int, part: Part = WHOLE) -> Splits:
        """Prepares the data set and makes the two pipelines.

        Args:
            batch_size: Images in a batch.
            seed: Of the order and the augmentation of the training images.
            part: What of each training batch is given.

        Returns:
            `Splits` with images float32 `(B, image_size, image_size, 3)`, normalised.

        Raises:
            InputError: If the data set or a split is unknown, has no image and label, or cannot be
                prepared.
        """
        start_tensorflow()
        builder = find_builder(self.name, self.data_dir)
        prepare(builder)
        label, several = _label_feature(builder)
        train_examples = _count(builder, self.train_split, "train_split")
        validation_examples = _count(builder, self.validation_split, "validation_split")

        # Files are read in an order that TFDS draws: an epoch cannot be asked for by its number.
        encoded = _read(builder, self.train_split, seed, part.count > 1)
        held_out = _read(builder, self.validation_split)
        if several:
            encoded = encoded.filter(_has_label).map(lambda image, labels: (image, labels[0]))
            held_out = held_out.filter(_has_label).map(lambda image, labels: (image, _mark(labels, label.num_classes)))
            train_examples, validation_examples = (
                int(dataset.reduce(0, lambda count, _: count + 1)) for dataset in (encoded, held_out)
            )
        encoded = encoded.shuffle(min(train_examples, SHUFFLE_BUFFER), seed=seed)
        train_epoch = self.train_batches(lambda _: encoded, label.num_classes, batch_size, seed, part)
        return self.splits(
            train_epoch,
            held_out,
            encoded,
            batch_size,
            seed,
            steps=train_examples // batch_size,
            train_examples=train_examples,
            class_names=tuple(label.names),
            validation_examples=validation_examples,
        )


def find_builder(name: str, data_dir: str | None):
    """The builder that TensorFlow Datasets has under `name`, or finds prepared in `data_dir`."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError) as error:  # unknown or malformed name, configuration or version
        reason = str(error).strip().splitlines()[0].rstrip(":")
        raise InputError(
            "`name` must be a data set of TensorFlow Datasets, or one prepared in `data_dir`. "
            f"Received: name={name!r}, data_dir={data_dir!r} ({reason})"
        ) from error


def prepare(builder) -> None:
    """Downloads and prepares a data set, unless that has been done."""
    if builder.is_prepared():
        return
    root = Path(builder.data_dir_root)
    by_hand = root / "downloads" / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not (by_hand.is_dir() and any(by_hand.iterdir())):
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split()).rstrip(".")
        raise InputError(
            f"The files of the data set `{builder.name}` must be placed by hand in `{by_hand}` ({instructions}). "
            "Received: no file there"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # assertions, network, disk, missing packages: whatever TFDS meets, there is no data
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"The data set `{builder.name}` must be prepared in `{root}`, or be there to download. Received: {reason}"
        ) from error


def only_evaluated(name: str) -> Tfds:
    """The source of a data set of this name that is evaluated, not trained on: all of its `validation`, or `test`."""
    builder = find_builder(name, None)
    prepare(builder)
    split = "validation" if "validation" in builder.info.splits else "test"
    return Tfds(name=name, train_split=split, validation_split=split)


def _label_feature(builder):
    """The class labels of a data set that has an image and a label, and whether an image has several."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    if isinstance(features.get("image"), tfds.features.Image):
        label, labels = features.get("label"), features.get("real_label")
        if isinstance(label, tfds.features.ClassLabel):
            return label, False
        if isinstance(labels, tfds.features.Sequence) and isinstance(labels.feature, tfds.features.ClassLabel):
            return labels.feature, True
    raise InputError(
        "`name` must be a data set with the features `image` and `label`, or `real_label`. "
        f"Received: name={builder.name!r} with {', '.join(features)}"
    )


def _has_label(image, labels):
    import tensorflow as tf

    return tf.size(labels) > 0


def _mark(labels, num_classes: int):
    """Int32 `(K,)`, 1 for each of an image's labels."""
    import tensorflow as tf

    return tf.reduce_max(tf.one_hot(labels, num_classes, dtype=tf.int32), axis=0)


def _count(builder, split: str, argument: str) -> int:
    try:
        return builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(
            f"`{argument}` must be one of {', '.join(builder.info.splits)}, or a part of it. "
            f"Received: {argument}={split!r}"
        ) from error


def _read(builder, split: str, shuffle_seed: int | None = None, same: bool = False):
    """Dataset of (bytes of an image file, int32 label, or the image's several).

    With a seed, the files come in random order. It is the `same` order in every process, if asked for, which takes more
    time.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    config = tfds.ReadConfig(shuffle_seed=shuffle_seed)
    if same:
        config.options.deterministic = True
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=shuffle_seed is not None,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=config,
    )
    name = "label" if "label" in builder.info.features else "real_label"
    return dataset.map(lambda example: (example["image"], tf.cast(example[name], tf.int32)))
