"""Writes a trained model as SavedModel, ONNX or LiteRT."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_adavit.commands.arguments import parse
from keras_adavit.export.write import check_target, export
from keras_adavit.models.saved import load_model
from keras_adavit.settings import settings


@settings(kw_only=True)
class Arguments:
    """Writes a trained model for TensorFlow (SavedModel), ONNX Runtime or LiteRT, with a free batch size."""

    model: Annotated[Path, tyro.conf.Positional]
    """The model, a .keras file."""
    out: Annotated[Path, tyro.conf.Positional]
    """Where to write: a new folder for a SavedModel, a new file for ONNX and LiteRT."""
    format: Literal["saved_model", "onnx", "litert"] = "saved_model"
    """What to write."""
    execution: Literal["packed", "masked"] | None = None
    """Compute only what is kept, or everything; packed if not given, and masked as LiteRT, which cannot pack."""
    overwrite: bool = False
    """Replace an earlier export of the same format."""
    preprocessing: bool = False
    """Take photos of any size, and a SavedModel JPEG and PNG files too, as evaluation does."""
    quantize: Literal["int8"] | None = None
    """With ONNX, weights and activations in 8 bits, but for those that decide and the first block."""


def main(arguments):
    """Runs the command; raises `InputError`."""
    given = parse(Arguments, prog="keras-adavit export", args=arguments)
    options = given.format, given.execution, given.overwrite
    check_target(given.out, *options)
    export(load_model(given.model), given.out, *options, given.preprocessing, given.quantize)
    print(f"Wrote {given.out}")
    return 0
