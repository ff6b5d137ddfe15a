"""Published PyTorch checkpoints → Keras weights. `python -m keras_adavit.convert` is the command."""

from keras_adavit.convert.download import download
from keras_adavit.convert.load import Report, load_torch_checkpoint

__all__ = ["Report", "download", "load_torch_checkpoint"]
