"""What a model says of images without labels, and what it spends on each."""

import dataclasses

import numpy as np
from keras import ops

from keras_adavit.data import photo_files
from keras_adavit.evaluation.evaluate import predictor
from keras_adavit.models.validation import check_takes_photos

SHOWN_CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        labels: The numbers of the most probable classes, at most five, the first one first.
        classes: Their names; where the model knows none, the numbers as text.
        probabilities: Their probabilities.
        macs: MACs of the image.
        macs_share: `macs` over the dense model's MACs.
    """

    labels: tuple[int, ...]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    macs: float
    macs_share: float


def predict(model, batches, policy=None, observe=None):
    """Runs a model over batches of images.

    Args:
        model: An `AdaViTClassifier`.
        batches: Iterable of float arrays (B, S, S, C), as the model was trained on.
        policy: As of `evaluate`.
        observe: Function that is also given `None`, as there are no labels, and each batch's outputs, as arrays.

    Returns:
        A list of `Prediction`, one for each image.

    Raises:
        InputError: If the policy does not fit the model.
    """
    run = predictor(model, policy)
    found = []
    for number, images in enumerate(batches):
        outputs = run(ops.convert_to_tensor(images), number)
        shares = softmax(outputs["logits"])
        found += [describe(model, *each) for each in zip(shares, outputs["macs"], strict=True)]
        if observe is not None:
            observe(None, outputs)
    return found


def describe(model, probabilities, macs):
    """The `Prediction` for an image with these probabilities (K,) and MACs."""
    labels = np.argsort(-probabilities, kind="stable")[:SHOWN_CLASSES]
    return Prediction(
        labels=tuple(map(int, labels)),
        classes=tuple(class_name(model.class_names, label) for label in labels),
        probabilities=tuple(map(float, probabilities[labels])),
        macs=float(macs),
        macs_share=float(macs) / model.dense_macs,
    )


def class_name(class_names, label):
    """The name of a class, or its number as text where names are not known."""
    return str(label) if class_names is None else class_names[label]


def softmax(logits):
    """Probabilities (B, K), float64, of logits (B, K)."""
    logits = logits.astype("float64")
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def read_photos(files, model, batch_size=128):
    """Batches of image files as a model takes them, see `data.photo_files.read_photos`.

    Raises:
        InputError: If the model does not know its preprocessing, or takes images of other than 1 or 3 channels.
    """
    check_takes_photos(model)
    return photo_files.read_photos(files, model.backbone.image_size, model.preprocessing, batch_size)


class FirstOutputs:
    """A model's outputs for the first few images: `add` is for `observe` of `evaluate` or `predict`."""

    def __init__(self, count):
        self.count = count
        self.batches = []

    def add(self, labels, outputs):
        """Takes a batch: the labels, which are not read, and the outputs as arrays."""
        if self.count > 0:
            self.batches.append({name: values[: self.count] for name, values in outputs.items()})
            self.count -= len(self.batches[-1]["logits"])

    def arrays(self):
        """A dict of the outputs as arrays."""
        return {name: np.concatenate([batch[name] for batch in self.batches]) for name in self.batches[0]}
