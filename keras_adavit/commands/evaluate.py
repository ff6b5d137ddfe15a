"""Evaluates a model: accuracy, MACs, and what each block used."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from keras_adavit.commands.arguments import parse
from keras_adavit.data.image_folder import name_bad_images
from keras_adavit.data.sources import ImageFolder
from keras_adavit.errors import InputError
from keras_adavit.evaluation import tables
from keras_adavit.evaluation.analysis import Breakdown, check_path
from keras_adavit.evaluation.calibration import calibrate
from keras_adavit.evaluation.evaluate import check_data, evaluate
from keras_adavit.experiments.recipe_file import load_recipe
from keras_adavit.files import check_writable, write_text
from keras_adavit.gating.external import OpenPolicy, RandomPolicy
from keras_adavit.models.saved import load_model
from keras_adavit.settings import BatchSize, PositiveFloat, PositiveInt, Seed, Share, Words, settings

Budgets = Annotated[tuple[PositiveFloat, ...], Words("positive numbers")]


@settings(kw_only=True)
class Arguments:
    """Prints top-1, top-5, loss, MACs and the usage of every block of a model on its validation images."""

    model: Annotated[Path, tyro.conf.Positional]
    """The model, a .keras file."""
    data: Path | None = None
    """A recipe (.py), or a folder of images with `train` and `val`; the recipe beside the model if not given."""
    json: Path | None = None
    """File to write the figures to."""
    batch_size: BatchSize = 128
    """Images in a batch."""
    policy: Literal["learned", "random", "open"] = "learned"
    """What decides: the model's gates, chance at the usages below, or nothing: everything is used."""
    token_usage: Share | None = None
    """With `--policy random`, the share of patches used in gated blocks, in [0, 1]; all if not given."""
    head_usage: Share | None = None
    """With `--policy random`, the share of heads used in gated blocks, in [0, 1]; all if not given."""
    block_usage: Share | None = None
    """With `--policy random`, the share of sub-layers (attention, MLP) used, in [0, 1]; all if not given."""
    seed: Seed | None = None
    """With `--policy random`, the seed of the draw; 0 if not given."""
    execution: Literal["masked", "packed"] = "masked"
    """Compute everything and multiply the skipped part away, or only what is kept; the figures are the same."""
    macs: Budgets = ()
    """Budgets, up to 1 as shares of the dense model's MACs, such as 0.3 0.5 0.7: for each, shifts the gates' thresholds
    so that it is met on the images, and prints the curve. The model file stays as it is."""
    calibration_images: PositiveInt = 1024
    """With `--macs`, how many of the images, at most, the thresholds are fitted to."""
    analyze: Path | None = None
    """File (.npz) to write each image's label, prediction, MACs and policy to; prints MACs by class too."""

    def __post_init__(self):
        for name in ("token_usage", "head_usage", "block_usage", "seed"):
            if getattr(self, name) is not None and self.policy != "random":
                option = name.replace("_", "-")
                raise InputError(f"`--{option}` needs `--policy random`. Received: --policy {self.policy}")
        if self.policy == "random" and self.token_usage is self.head_usage is self.block_usage is None:
            raise InputError(
                "`--policy random` needs one of `--token-usage`, `--head-usage` and `--block-usage`. Received: none"
            )
        if self.macs and (self.policy != "learned" or self.analyze is not None):
            raise InputError(
                "`--macs` needs the learned policy, without `--analyze`. Received: --macs with one of them"
            )

    def make_policy(self):
        """The policy object that the arguments speak of; `None` lets the gates decide."""
        if self.policy == "random":
            usages = {"tokens": self.token_usage, "heads": self.head_usage, "sublayers": self.block_usage}
            given = {name: usage for name, usage in usages.items() if usage is not None}
            return RandomPolicy(**given, seed=self.seed or 0)
        return OpenPolicy() if self.policy == "open" else None


def main(arguments):
    """Runs the command; raises `InputError`."""
    arguments = parse(Arguments, prog="keras-adavit evaluate", args=arguments)
    check_outputs(arguments)
    model = load_model(arguments.model)
    model.execution = arguments.execution
    source = find_data(model, arguments.model, arguments.data)
    splits = source.load(arguments.batch_size, seed=0)
    check_data(model, splits, splits.validation.element_spec[0].shape[1:])
    with name_bad_images(splits):
        if arguments.macs:
            curve = evaluate_budgets(model, splits, arguments)
            tables.print_curve(curve, Console())
            write_json(arguments.json, {str(macs): dataclasses.asdict(each) for macs, each in curve.items()})
            return 0
        breakdown = None if arguments.analyze is None else Breakdown()
        found = evaluate(model, splits.validation, arguments.make_policy(), breakdown and breakdown.add)
    tables.print_evaluation(found, Console())
    if breakdown is not None:
        tables.print_classes(breakdown.by_class(), splits.class_names, model.dense_macs, Console())
        breakdown.save(arguments.analyze)
    write_json(arguments.json, dataclasses.asdict(found))
    return 0


def check_outputs(arguments):
    """Raises `InputError` for files that could not be written, before anything is computed."""
    if arguments.json is not None:
        if arguments.json.is_dir() or not arguments.json.parent.is_dir():
            raise InputError(f"`--json` must be a file in an existing folder. Received: {arguments.json}")
        check_writable(arguments.json)
    if arguments.analyze is not None:
        check_path(arguments.analyze, "--analyze")


def find_data(model, model_path, data):
    """The data source that `--data`, or the run that the model belongs to, speaks of.

    A folder's images are cropped and normalised as those that the model was trained on, if it knows how; what else can
    be said of a folder is as in the run.
    """
    beside = model_path.parent.parent / "recipe.py"
    own = load_recipe(beside).data if beside.is_file() else None
    if data is None:
        if own is None:
            raise InputError(f"`--data` must be given for a model without a recipe beside it. Received: {model_path}")
        return own
    if data.suffix == ".py":
        return load_recipe(data).data
    folder = own if isinstance(own, ImageFolder) else ImageFolder(image_size=model.backbone.image_size)
    known = model.preprocessing
    if known is None or model.backbone.channels != 3:  # photos in a folder have three, as `check_data` will say
        return dataclasses.replace(folder, path=str(data))
    looks = {"crop_fraction": known.crop_fraction, "mean": known.mean, "std": known.std}
    return dataclasses.replace(folder, path=str(data), image_size=model.backbone.image_size, **looks)


def evaluate_budgets(model, splits, arguments):
    """An `Evaluation` for each budget of `--macs`: a dict, smallest first."""
    images = min(arguments.calibration_images, splits.validation_examples)
    some = splits.validation.unbatch().take(images).batch(min(arguments.batch_size, images)).cache()
    found = {}
    for macs in sorted(set(arguments.macs)):
        calibrate(model, some, macs)
        found[macs] = evaluate(model, splits.validation)
    return found


def write_json(path, figures):
    """Writes figures to a file, if one is asked for."""
    if path is not None:
        write_text(path, json.dumps(figures, indent=2) + "\n")
