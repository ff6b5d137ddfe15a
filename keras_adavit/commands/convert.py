"""Converts a PyTorch or safetensors file of a model into a .keras file."""

from pathlib import Path
from typing import Annotated

import tyro

from keras_adavit.commands.arguments import parse
from keras_adavit.errors import InputError
from keras_adavit.files import check_writable, write_whole
from keras_adavit.gating.config import GateConfig
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.presets import find_preset
from keras_adavit.settings import ImageSize, PositiveInt, settings
from keras_adavit.weights.checkpoint_file import read_checkpoint
from keras_adavit.weights.load import load_torch_checkpoint
from keras_adavit.weights.published_names import find_gates


@settings(kw_only=True)
class Arguments:
    """Converts a PyTorch or safetensors file, a published one or of timm or Hugging Face, into a .keras file.

    The model has the gates that the file has; without any, it is the dense model that an adaptive one starts from. What
    no name in a file tells is as in the published models: full heads, tokens that gate the MLP too, thresholds.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """The file (.pth, .pth.tar, .safetensors)."""
    output: Annotated[Path, tyro.conf.Positional]
    """The .keras file to write; must not exist."""
    preset: str
    """Name of the model; an unknown name lists the nearest."""
    num_classes: PositiveInt = 1000
    """Another number than the file's: a new classifier."""
    image_size: ImageSize = 224
    """Another size than the file's: interpolated positions."""
    names: bool = False
    """Print what became of every name, not the summary alone."""


def main(arguments):
    """Runs the command; raises `InputError`."""
    given = parse(Arguments, prog="keras-adavit convert", args=arguments)
    if given.output.suffix != ".keras" or given.output.exists() or not given.output.parent.is_dir():
        raise InputError(f"The output must be a new .keras file in an existing folder. Received: {given.output}")
    check_writable(given.output)
    find_preset(given.preset)  # a wrong name is told before a large file is read
    gates = find_gates(read_checkpoint(given.checkpoint).arrays)
    gates = None if gates is None else GateConfig(**gates)
    model = AdaViTClassifier.from_preset(given.preset, given.num_classes, given.image_size, gates=gates)
    report = load_torch_checkpoint(model, given.checkpoint)
    with write_whole(given.output) as unfinished:
        model.save(unfinished)
    print(report if given.names else report.summary)
    return 0
