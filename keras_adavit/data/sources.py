"""The data sources to choose from."""

from keras_adavit.data.digits import Digits
from keras_adavit.data.hugging_face import HuggingFace
from keras_adavit.data.image_folder import ImageFolder
from keras_adavit.data.shards import Shards
from keras_adavit.data.tfds import Tfds

Source = Digits | HuggingFace | ImageFolder | Shards | Tfds
