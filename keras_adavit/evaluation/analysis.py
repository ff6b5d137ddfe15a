"""A breakdown of an evaluation: what each image cost and used, and each class in the mean."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from keras_adavit.errors import InputError
from keras_adavit.files import check_writable, write_whole
from keras_adavit.gating.policy import POLICY_KEYS


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Means over the images of one class.

    Attributes:
        label: Number of the class.
        images: How many.
        macs: Mean MACs.
        top1: Share of them that is classified rightly.
    """

    label: int
    images: int
    macs: float
    top1: float


class Breakdown:
    """Each image's label, prediction, MACs and policy, in the order of the data.

    ```python
    breakdown = Breakdown()
    evaluate(model, dataset, observe=breakdown.add)
    breakdown.save("out.npz")
    ```
    """

    def __init__(self):
        self.batches = []

    def add(self, labels, outputs):
        """Takes a batch: labels (B,) and the model's outputs as arrays."""
        keeps = {key: outputs[key] > 0.5 for key in POLICY_KEYS}
        prediction = outputs["logits"].argmax(axis=-1)
        self.batches.append({"label": labels, "prediction": prediction, "macs": outputs["macs"], **keeps})

    def arrays(self):
        """A dict of `label` and `prediction`, integers (N,), `macs` (N,), and booleans, true where used: `token_keep`
        (N, L, T) with the class token first, `head_keep` (N, L, H), `block_keep` (N, L, 2): attention, MLP."""
        return {name: np.concatenate([batch[name] for batch in self.batches]) for name in self.batches[0]}

    def by_class(self):
        """A `ClassFigures` of each class that has images, from the fewest mean MACs to the most."""
        arrays = self.arrays()
        right = arrays["prediction"] == arrays["label"]
        macs = arrays["macs"].astype("float64")
        figures = []
        for label in np.unique(arrays["label"]):
            own = arrays["label"] == label
            figures.append(ClassFigures(int(label), int(own.sum()), float(macs[own].mean()), float(right[own].mean())))
        return sorted(figures, key=lambda figure: figure.macs)

    def save(self, path):
        """Writes `arrays` as a compressed .npz file, which is there whole or not at all."""
        with write_whole(path) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **self.arrays())


def check_path(path, argument, suffix=".npz"):
    """Raises `InputError` unless `path`, given as `argument`, can be written as a file of a kind."""
    path = Path(path)
    if path.suffix != suffix or os.path.isdir(path):
        raise InputError(f"`{argument}` must be a file ending in {suffix}. Received: {path}")
    if not os.path.isdir(path.parent):
        raise InputError(f"`{argument}` must be in an existing folder. Received: {path}")
    check_writable(path)
