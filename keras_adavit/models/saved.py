"""Models from `.keras` files: whole ones, of this library; nothing in a file is executed."""

import json
import os
import zipfile

import keras

from keras_adavit.archives import find_damage, open_file
from keras_adavit.errors import InputError, printable
from keras_adavit.layers.tokens_to_token import SPLITS
from keras_adavit.models.backbone import AdaViTBackbone
from keras_adavit.models.classifier import AdaViTClassifier

CONFIG, WEIGHTS = "config.json", "model.weights.h5"  # what Keras calls the parts of its files
LONGEST_REASON = 200


def load_model(path):
    """Loads an `AdaViTClassifier` from a `.keras` file, on any backend.

    Raises:
        InputError: If the file is missing, damaged, not a Keras model, or a model of something else.
    """
    with open_file(path, "model") as file:
        name = printable(path)
        if not os.fspath(path).endswith(".keras"):
            raise InputError(f"The model must be a .keras file. Received: {name}")
        damage = find_damage(file)
        if damage:
            raise InputError(f"The model must be a complete .keras file. Received: {name}, but {damage}")
        try:
            check_config(file)
            # What it trained with does not matter. The mode is Keras's own, but a program can switch that off.
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # whatever Keras, h5py and json raise on a content that they do not expect
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            reason = printable(reason.strip().partition("\n")[0])[:LONGEST_REASON]
            raise InputError(
                f"The model must be a .keras file of an AdaViTClassifier. Received: {name}: {reason}"
            ) from error
    return model


def check_config(file):
    """Raises `InputError` unless an open `.keras` file is of an `AdaViTClassifier` whose weights it can hold.

    It comes before Keras makes the objects that the file speaks of, of whatever class and size.
    """
    with zipfile.ZipFile(file) as archive:
        missing = [part for part in (CONFIG, WEIGHTS) if part not in archive.namelist()]
        if missing:
            raise InputError(f"it has no {missing[0]}")
        classifier = json.loads(archive.read(CONFIG))
        size = archive.getinfo(WEIGHTS).file_size
    check_class(classifier, AdaViTClassifier)
    config = classifier["config"]
    check_class(config["backbone"], AdaViTBackbone)
    needed = least_weights(**config["backbone"]["config"], num_classes=config["num_classes"])
    if needed > size:
        raise InputError(f"it is of a model of {needed} weights or more, but has {size} bytes of them")


def check_class(config, expected):
    """Raises `InputError` unless a serialised Keras object is of a class, or of a subclass that is registered."""
    found = keras.saving.get_registered_object(str(config["registered_name"]))
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise InputError(f"it holds a {config['class_name']} in the place of an {expected.__name__}")


def least_weights(
    *, image_size, patch_size, width, depth, num_classes, mlp_ratio=0, channels=1, stem="patch", token_width=1, **_
):
    """Weights that a model of these sizes has at least: kernels and positions."""
    sizes = (image_size, patch_size, width, depth, mlp_ratio, channels, token_width, num_classes)
    if not all(isinstance(size, int | float) for size in sizes):
        raise InputError(f"its sizes must be numbers. Received: {sizes}")
    blocks = depth * width * width * (4 + 2 * mlp_ratio)
    positions = width * (image_size // patch_size) ** 2
    patches = width * patch_size**2 * channels
    convolutions = 9 * channels + width * width
    tokens = token_width * (SPLITS[0][0] ** 2 * channels + SPLITS[-1][0] ** 2 * width)
    stem_weights = {"patch": patches, "conv": convolutions}.get(stem, tokens)
    return int(blocks + positions + stem_weights + width * num_classes)
