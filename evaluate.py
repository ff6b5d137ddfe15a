"""Evaluates a model: accuracy, MACs, and what each block used."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's remarks on start-up say nothing to a user


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prints top-1, top-5, loss, MACs and the usage of every block of a model on its validation images."""

    model: Annotated[Path, tyro.conf.Positional]
    """The model, a .keras file."""
    data: Path | None = None
    """A recipe (.py), or a folder of images with `train` and `val`; the recipe beside the model if not given."""
    json: Path | None = None
    """File to write the figures to."""
    batch_size: int = 128
    """Images in a batch."""


def find_data(model_path, data, image_size):
    """The data source that `--data`, or the run that the model belongs to, speaks of."""
    from keras_adavit.data.sources import ImageFolder
    from keras_adavit.errors import InputError
    from keras_adavit.recipe import load_recipe

    beside = model_path.parent.parent / "recipe.py"
    own = load_recipe(beside).data if beside.is_file() else None
    if data is None:
        if own is None:
            raise InputError(f"`--data` must be given for a model without a recipe beside it. Received: {model_path}")
        return own
    if data.suffix == ".py":
        return load_recipe(data).data
    if isinstance(own, ImageFolder):
        return dataclasses.replace(own, path=str(data))
    return ImageFolder(path=str(data), image_size=image_size)


def main(arguments):
    """Runs the command and returns its exit code."""
    arguments = tyro.cli(Arguments, prog="evaluate.py", args=arguments)

    from rich.console import Console

    from keras_adavit import evaluation, report
    from keras_adavit.errors import InputError

    try:
        if arguments.json is not None and not arguments.json.parent.is_dir():
            raise InputError(f"`--json` must be in an existing folder. Received: {arguments.json}")
        model = evaluation.load_model(arguments.model)
        source = find_data(arguments.model, arguments.data, model.backbone.image_size)
        splits = source.load(arguments.batch_size, seed=0)
        evaluation.check_data(model, splits, splits.validation.element_spec[0].shape[1:])
        found = evaluation.evaluate(model, splits.validation)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report.print_evaluation(found, Console())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
