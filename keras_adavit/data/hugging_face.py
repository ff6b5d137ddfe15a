"""Data from Hugging Face `datasets`: a data set with an image and a class label, from a folder or from the Hub."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from keras_adavit.data.part import WHOLE, Part
from keras_adavit.data.photos import Photos
from keras_adavit.data.pipeline import Splits, shuffled_indices, start_tensorflow
from keras_adavit.errors import InputError
from keras_adavit.settings import FileName, settings

FETCHED = 32  # images that are fetched at a time


@settings
class HuggingFace(Photos):
    """A data set of Hugging Face `datasets`; its image and its label are found by their types."""

    name: FileName = ""
    """Folder that `save_to_disk` wrote, or name of a data set on the Hub, which is downloaded, or its folder here."""
    configuration: str | None = None
    """Configuration of a data set that has several."""
    train_split: str = "train"
    """Split to train on; of what is not a `save_to_disk` folder parts such as `train[:90%]` work."""
    validation_split: str = "validation"
    """Split to evaluate on; many data sets call it `test`."""

    def load(self, batch_size: int, seed: int, part: Part = WHOLE) -> Splits:
        """Reads the data set and makes the two pipelines.

        Args:
            batch_size: Images in a batch.
            seed: Of the order and the augmentation of the training images.
            part: What of each training batch is given.

        Returns:
            `Splits` with images float32 `(B, image_size, image_size, 3)`, normalised.

        Raises:
            InputError: If `datasets` is missing, the data set or a split cannot be read, it has not one image and one
                class label, the splits have other classes, or an image has no label.
        """
        start_tensorflow()
        import tensorflow as tf

        train, held_out = (self.read(name) for name in ("train_split", "validation_split"))
        if train.class_names != held_out.class_names:
            raise InputError(
                "`validation_split` must have the classes of `train_split`. "
                f"Received: {len(held_out.class_names)} classes in it, {len(train.class_names)} in the other, or others"
            )

        def shuffled(seed):
            return train.examples(shuffled_indices(len(train), seed))

        train_epoch = self.train_batches(shuffled, len(train.class_names), batch_size, seed, part)
        order = tf.data.Dataset.from_tensor_slices(np.random.default_rng(0).permutation(len(held_out)))
        return self.splits(
            train_epoch,
            held_out.examples(order),
            shuffled([seed, 1]),
            batch_size,
            seed,
            steps=len(train) // batch_size,
            train_examples=len(train),
            class_names=train.class_names,
            validation_examples=len(held_out),
        )

    def read(self, argument: str) -> Table:
        """The split that the argument of this name says."""
        split = getattr(self, argument)
        try:
            import datasets
        except ImportError as error:
            raise InputError("`HuggingFace` needs the extra `datasets` of this package. Received: none") from error
        folder = Path(os.path.expanduser(self.name))
        if not self.name:
            raise InputError("`name` must be a folder of a data set or a name on the Hub. Received: name=''")
        try:
            if (folder / "dataset_dict.json").is_file():
                found = datasets.load_from_disk(str(folder))
                if split not in found:
                    raise ValueError(f"it has {', '.join(found)}")
                return Table(found[split], argument, split)
            name = str(folder) if folder.is_dir() else self.name
            return Table(datasets.load_dataset(name, self.configuration, split=split), argument, split)
        except InputError:
            raise
        except Exception as error:  # network, disk, unknown name or split: whatever it meets, there is no data
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"`name` must be a data set of Hugging Face `datasets` with the split of `{argument}`. "
                f"Received: name={self.name!r}, {argument}={split!r} ({reason})"
            ) from error


class Table:
    """A split of a data set.

    Args:
        table: A `datasets.Dataset`.
        argument, split: What it was asked for by.
    """

    def __init__(self, table, argument: str, split: str):
        import datasets

        found = {
            kind: [name for name, feature in table.features.items() if isinstance(feature, kind)]
            for kind in (datasets.Image, datasets.ClassLabel)
        }
        if any(len(names) != 1 for names in found.values()):
            columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in table.features.items())
            raise InputError(f"`name` must be a data set with one Image and one ClassLabel. Received: {columns}")
        (self.image,), (self.label,) = found.values()
        self.class_names = tuple(table.features[self.label].names)
        labels = list(table[self.label])
        if not labels or any(label is None or label < 0 for label in labels):
            raise InputError(
                f"`{argument}` must have images, each with a label. Received: {argument}={split!r} with "
                f"{len(table)} images"
            )
        self.labels = np.array(labels, "int32")
        self.table = table.select_columns([self.image]).cast_column(self.image, datasets.Image(decode=False))

    def __len__(self):
        return len(self.table)

    def examples(self, indices):
        """Dataset of (bytes of an image file, int32 label) of a dataset of indices."""
        import tensorflow as tf

        def fetch(some):
            images = self.table[some.tolist()][self.image]
            return np.array([image["bytes"] or Path(image["path"]).read_bytes() for image in images], object)

        def fetched(some):
            images = tf.ensure_shape(tf.numpy_function(fetch, [some], tf.string), (None,))
            return images, tf.gather(self.labels, some)

        examples = indices.batch(FETCHED).map(fetched, tf.data.AUTOTUNE).unbatch()
        return examples.apply(tf.data.experimental.assert_cardinality(len(self)))
