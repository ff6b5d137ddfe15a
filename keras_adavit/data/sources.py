"""The data sources to choose from."""

import dataclasses

from keras_adavit.data.digits import Digits
from keras_adavit.data.hugging_face import HuggingFace
from keras_adavit.data.image_folder import ImageFolder
from keras_adavit.data.photos import Photos
from keras_adavit.data.shards import Shards
from keras_adavit.data.tfds import Tfds
from keras_adavit.errors import InputError

Source = Digits | HuggingFace | ImageFolder | Shards | Tfds

BY_NAME = {"digits": Digits, "folder": ImageFolder, "hugging-face": HuggingFace, "shards": Shards, "tfds": Tfds}


def change_source(source, name):
    """A source of another kind, or the same one, with what two sources of photos have in common kept.

    Args:
        source: A source.
        name: One of `BY_NAME`.

    Returns:
        A source that is not yet told where its images are.

    Raises:
        InputError: If there is no such kind.
    """
    if name not in BY_NAME:
        raise InputError(f"`data.source` must be one of {', '.join(BY_NAME)}. Received: {name}")
    kind = BY_NAME[name]
    if isinstance(source, kind):
        return source
    both = isinstance(source, Photos) and issubclass(kind, Photos)
    kept = dataclasses.fields(Photos) if both else ()
    return kind(**{field.name: getattr(source, field.name) for field in kept})
