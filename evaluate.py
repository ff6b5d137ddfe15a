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
    execution: Literal["masked", "packed"] = "masked"
    """Compute everything and multiply the skipped part away, or only what is kept; the figures are the same."""
    macs: tuple[float, ...] = ()
    """Budgets, up to 1 as shares of the dense model's MACs, such as 0.3 0.5 0.7: for each, shifts the gates' thresholds
    so that it is met on the images, and prints the curve. The model file stays as it is."""
    calibration_images: int = 1024
    """With `--macs`, how many of the images, at most, the thresholds are fitted to."""
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


def check_macs(arguments):
    """Raises `InputError` for budgets that are none, or that other options contradict."""
    from keras_adavit.errors import InputError

    wrong = [macs for macs in arguments.macs if not macs > 0]
    if wrong:
        raise InputError(f"`--macs` must be positive. Received: --macs {wrong[0]}")
    if arguments.macs and (arguments.policy != "learned" or arguments.analyze is not None):
        raise InputError("`--macs` needs the learned policy, without `--analyze`. Received: --macs with one of them")
    if arguments.calibration_images < 1:
        raise InputError(f"`--calibration-images` must be positive. Received: {arguments.calibration_images}")


def evaluate_budgets(model, dataset, arguments):
    """An `Evaluation` for each budget of `--macs`: a dict, smallest first."""
    from keras_adavit import evaluation
    from keras_adavit.inference.calibration import calibrate

    some = dataset.unbatch().take(arguments.calibration_images).batch(arguments.batch_size).cache()
    found = {}
    for macs in sorted(set(arguments.macs)):
        calibrate(model, some, macs)
        found[macs] = evaluation.evaluate(model, dataset)
    return found


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
    from keras_adavit.data.image_folder import name_bad_images
    from keras_adavit.errors import InputError
    from keras_adavit.models.saved import load_model

    try:
        if arguments.json is not None and not arguments.json.parent.is_dir():
            raise InputError(f"`--json` must be in an existing folder. Received: {arguments.json}")
        if arguments.analyze is not None:
            analysis.check_path(arguments.analyze, "--analyze")
        check_macs(arguments)
        policy = find_policy(arguments)
        model = load_model(arguments.model)
        model.execution = arguments.execution
        source = find_data(arguments.model, arguments.data, model.backbone.image_size)
        splits = source.load(arguments.batch_size, seed=0)
        evaluation.check_data(model, splits, splits.validation.element_spec[0].shape[1:])
        with name_bad_images(splits):
            if arguments.macs:
                curve = evaluate_budgets(model, splits.validation, arguments)
                report.print_curve(curve, Console())
                write_json(arguments.json, {str(macs): dataclasses.asdict(found) for macs, found in curve.items()})
                return 0
            breakdown = None if arguments.analyze is None else analysis.Breakdown()
            found = evaluation.evaluate(model, splits.validation, policy, breakdown and breakdown.add)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report.print_evaluation(found, Console())
    if breakdown is not None:
        report.print_classes(breakdown.by_class(), splits.class_names, model.dense_macs, Console())
        breakdown.save(arguments.analyze)
    write_json(arguments.json, dataclasses.asdict(found))
    return 0


def write_json(path, figures):
    """Writes figures to a file, if one is asked for."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
