"""Data: embedded digits, image folders, shards, data sets of TensorFlow and Hugging Face, for every backend."""

from keras_adavit.data.augment import Augment
from keras_adavit.data.digits import Digits
from keras_adavit.data.hugging_face import HuggingFace
from keras_adavit.data.image_folder import ImageFolder
from keras_adavit.data.pipeline import Splits, denormalize
from keras_adavit.data.preprocessing import Preprocessing
from keras_adavit.data.shards import Shards
from keras_adavit.data.sources import Source
from keras_adavit.data.tfds import Tfds

__all__ = [
    "Augment",
    "Digits",
    "HuggingFace",
    "ImageFolder",
    "Preprocessing",
    "Shards",
    "Source",
    "Splits",
    "Tfds",
    "denormalize",
]
