"""Writes a trained model as SavedModel or ONNX: python -m keras_adavit.export MODEL.keras OUT --format onnx."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Writes a trained model for TensorFlow (SavedModel) or ONNX Runtime, with a free batch size."""

    model: Annotated[Path, tyro.conf.Positional]
    """The model, a .keras file."""
    out: Annotated[Path, tyro.conf.Positional]
    """Where to write: a new folder for a SavedModel, a new file for ONNX."""
    format: Literal["saved_model", "onnx"] = "saved_model"
    """What to write."""
    execution: Literal["packed", "masked"] = "packed"
    """Compute only what is kept, or everything."""


def main(arguments):
    """Runs the command and returns its exit code."""
    arguments = tyro.cli(Arguments, prog="python -m keras_adavit.export", args=arguments)

    from keras_adavit.errors import InputError
    from keras_adavit.export.write import check_target, export
    from keras_adavit.models.saved import load_model

    try:
        check_target(arguments.out, arguments.format, arguments.execution)
        export(load_model(arguments.model), arguments.out, arguments.format, arguments.execution)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
