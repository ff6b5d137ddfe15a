"""Evaluates a model: accuracy, MACs, and what each block used."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

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
    policy: Literal["learned", "random", "open"] = "learned"
    """What decides: the model's gates, chance at the usages below, or nothing: everything is used."""
    token_usage: float | None = None
    """With `--policy random`, the share of patches used in gated blocks, in [0, 1]; all if not given."""
    head_usage: float | None = None
    """With `--policy random`, the share of heads used in gated blocks, in [0, 1]; all if not given."""
    block_usage: float | None = None
    """With `--policy random`, the share of sub-layers (attention, MLP) used, in [0, 1]; all if not given."""
    seed: int | None = None
    """With `--policy random`, the seed of the draw; 0 if not given."""
    analyze: Path | None = None
    """File (.npz) to write each image's label, prediction, MACs and policy to; prints MACs by class too."""


def find_policy(arguments):
    """The policy object that the arguments speak of; `None` lets the gates decide."""
    from keras_adavit.baselines import OpenPolicy, RandomPolicy
    from keras_adavit.errors import InputError

    options = {"tokens": "token_usage", "heads": "head_usage", "sublayers": "block_usage", "seed": "seed"}
    given = {name: getattr(arguments, option) for name, option in options.items()}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        option = options[name].replace("_", "-")
        if arguments.policy != "random":
            raise InputError(f"`--{option}` needs `--policy random`. Received: --policy {arguments.policy}")
        if name != "seed" and not 0 <= value <= 1:
            raise InputError(f"`--{option}` must be in [0, 1]. Received: --{option} {value}")
    if arguments.policy == "random":
        if not given.keys() - {"seed"}:
            raise InputError(
                "`--policy random` needs one of `--token-usage`, `--head-usage` and `--block-usage`. Received: none"
            )
        return RandomPolicy(**given)
    return OpenPolicy() if arguments.policy == "open" else None


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

    from keras_adavit import analysis, evaluation, report
    from keras_adavit.errors import InputError

    try:
        if arguments.json is not None and not arguments.json.parent.is_dir():
            raise InputError(f"`--json` must be in an existing folder. Received: {arguments.json}")
        if arguments.analyze is not None:
            analysis.check_path(arguments.analyze, "--analyze")
        policy = find_policy(arguments)
        model = evaluation.load_model(arguments.model)
        source = find_data(arguments.model, arguments.data, model.backbone.image_size)
        splits = source.load(arguments.batch_size, seed=0)
        evaluation.check_data(model, splits, splits.validation.element_spec[0].shape[1:])
        breakdown = None if arguments.analyze is None else analysis.Breakdown()
        found = evaluation.evaluate(model, splits.validation, policy, breakdown and breakdown.add)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report.print_evaluation(found, Console())
    if breakdown is not None:
        report.print_classes(breakdown.by_class(), splits.class_names, model.dense_macs, Console())
        breakdown.save(arguments.analyze)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
