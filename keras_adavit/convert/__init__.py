"""Published PyTorch checkpoints → Keras weights. `python -m keras_adavit.convert` is the command."""

from keras_adavit.convert.load import Report, load_torch_checkpoint

__all__ = ["Report", "load_torch_checkpoint"]
