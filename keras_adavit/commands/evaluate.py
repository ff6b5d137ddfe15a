"""Evaluates a model: accuracy, MACs, and what each block used."""

import dataclasses
import json

import numpy as np
from rich.console import Console

from keras_adavit.commands.arguments import parse
from keras_adavit.commands.evaluation_arguments import Arguments
from keras_adavit.data.image_folder import name_bad_images
from keras_adavit.data.photo_files import find_photos
from keras_adavit.data.shard_files import INDEX
from keras_adavit.data.sources import ImageFolder, Shards
from keras_adavit.data.tfds import only_evaluated
from keras_adavit.errors import InputError, printable
from keras_adavit.evaluation import tables
from keras_adavit.evaluation.analysis import Breakdown, check_path
from keras_adavit.evaluation.calibration import calibrate
from keras_adavit.evaluation.comparison import compare_decisions
from keras_adavit.evaluation.evaluate import check_data, evaluate, one_of
from keras_adavit.evaluation.pictures import policy_picture
from keras_adavit.evaluation.predict import FirstOutputs, predict, read_photos
from keras_adavit.evaluation.timing import measure
from keras_adavit.experiments.recipe_file import load_recipe
from keras_adavit.files import check_writable, write_text
from keras_adavit.memory import check_memory
from keras_adavit.models.saved import load_model
from keras_adavit.visualize.figure import save

PICTURED, PHOTOS_PICTURED = 6, 12  # images of a data set, and of `--images`, in a picture
TFDS = "tfds:"  # before the name of a data set of TensorFlow Datasets
TIMED = 64  # images of a turn, where a batch is smaller


def main(arguments):
    """Runs the command; raises `InputError`."""
    arguments = parse(Arguments, prog="keras-adavit evaluate", args=arguments)
    check_outputs(arguments)
    model = load_model(arguments.model)
    model.execution = arguments.execution
    figures = (on_photos if arguments.images else on_data)(model, arguments, Console())
    if arguments.json is not None:
        write_text(arguments.json, json.dumps(figures, indent=2) + "\n")
    return 0


def on_photos(model, arguments, console):
    """Prints what the model says of the images of `--images`, and returns it."""
    files = find_photos(arguments.images)
    if arguments.time:
        photos = read_photos(files[: max(TIMED, arguments.images_in_batch)], model, arguments.images_in_batch)
        return show_time(model, np.concatenate(list(photos)), arguments, console)
    first = FirstOutputs(PHOTOS_PICTURED)
    found = predict(model, read_photos(files, model, arguments.images_in_batch), arguments.make_policy(), first.add)
    tables.print_predictions(files, found, console)
    if arguments.picture is not None:
        images = next(read_photos(files[:PHOTOS_PICTURED], model))
        draw(arguments.picture, model, images, None, model.class_names, model.preprocessing, first)
        if len(files) > len(images):
            console.print(f"In the picture are the first {len(images)} of {len(files)} images.", highlight=False)
    return [{"file": printable(file), **dataclasses.asdict(each)} for file, each in zip(files, found, strict=True)]


def on_data(model, arguments, console):
    """Prints what the model does with the validation images of a data set, and returns it."""
    source = find_data(model, arguments.model, arguments.data)
    splits = source.load(arguments.images_in_batch, seed=0)
    check_data(model, splits, splits.validation.element_spec[0].shape[1:])
    with name_bad_images(splits):
        if arguments.time:
            some = splits.validation.unbatch().take(max(TIMED, arguments.images_in_batch))
            return show_time(model, np.stack([image for image, _ in some.as_numpy_iterator()]), arguments, console)
        if arguments.compare:
            show = show_comparison
        else:
            show = show_budgets if arguments.macs or arguments.milliseconds else show_evaluation
        return show(model, splits, arguments, console)


def show_evaluation(model, splits, arguments, console):
    """Prints the figures, by class too with `--analyze`, and draws with `--picture`."""
    breakdown, first = Breakdown(), FirstOutputs(PICTURED)
    asked = [(arguments.analyze, breakdown), (arguments.picture, first)]
    observers = [observer for path, observer in asked if path is not None]

    def observe(labels, outputs):
        for observer in observers:
            observer.add(labels, outputs)

    found = evaluate(model, splits.validation, arguments.make_policy(), observe)
    tables.print_evaluation(found, console)
    if arguments.analyze is not None:
        tables.print_classes(breakdown.by_class(), splits.class_names, model.dense_macs, console)
        breakdown.save(arguments.analyze)
    if arguments.picture is not None:
        images, labels = zip(*splits.validation.unbatch().take(PICTURED).as_numpy_iterator(), strict=True)
        if np.ndim(labels[0]):
            labels = one_of(np.stack(labels), first.arrays()["logits"])
        draw(arguments.picture, model, np.stack(images), labels, splits.class_names, splits.preprocessing, first)
    return dataclasses.asdict(found)


def show_budgets(model, splits, arguments, console):
    """Prints an `Evaluation` for each budget of `--macs` or `--milliseconds`, smallest first; and the times reached."""
    name = "macs" if arguments.macs else "milliseconds"
    images = min(arguments.calibration_images, splits.validation_examples)
    some = splits.validation.unbatch().take(images).batch(min(arguments.images_in_batch, images)).cache()
    found, reached = {}, {}
    for budget in sorted(set(getattr(arguments, name))):
        reached[budget] = calibrate(model, some, **{name: budget}, batch_size=arguments.images_in_batch)
        found[budget] = evaluate(model, splits.validation)
    times = reached if name == "milliseconds" else None
    tables.print_curve(found, console, times)
    more = {budget: {name: time} for budget, time in (times or {}).items()}
    return {str(budget): dataclasses.asdict(each) | more.get(budget, {}) for budget, each in found.items()}


def show_comparison(model, splits, arguments, console):
    """Prints accuracy under the gates' decisions, and under others that use as much."""
    path = arguments.dense_model
    if path is None:
        beside = arguments.model.parent.parent / "dense" / "last.keras"
        path = beside if beside.is_file() else None
    dense = None if path is None else load_model(path)
    if dense is not None:
        check_data(dense, splits, model.backbone.image_shape)
    found = compare_decisions(model, splits.validation, dense)
    tables.print_decisions(found, console)
    return dataclasses.asdict(found)


def show_time(model, images, arguments, console):
    """Prints images a second, dense, masked and packed; images come again where they do not fill a batch."""
    batch = arguments.images_in_batch
    check_memory(images[0].nbytes * batch, "A batch of images", f"batch_size={batch}")
    images = np.resize(images, (max(len(images), batch), *images.shape[1:]))
    found = measure(model, images, batch)
    tables.print_timing(found, console)
    return dataclasses.asdict(found)


def draw(path, model, images, labels, class_names, preprocessing, outputs):
    """Draws what each block kept of images, which `outputs` are of."""
    looks = preprocessing.mean, preprocessing.std
    save(policy_picture(model, images, labels, class_names, *looks, outputs.arrays()), path)


def check_outputs(arguments):
    """Raises `InputError` for files that could not be written, before anything is computed."""
    if arguments.json is not None:
        if arguments.json.is_dir() or not arguments.json.parent.is_dir():
            raise InputError(f"`--json` must be a file in an existing folder. Received: {arguments.json}")
        check_writable(arguments.json)
    if arguments.analyze is not None:
        check_path(arguments.analyze, "--analyze")
    if arguments.picture is not None:
        check_path(arguments.picture, "--picture", ".png")


def find_data(model, model_path, data):
    """The data source that `--data`, or the run that the model belongs to, speaks of.

    The images of a folder, of shards or of TensorFlow Datasets are cropped and normalised as those that the model was
    trained on, if it knows how; what else can be said of a folder is as in the run: one of class folders alone is split
    as the run's was.
    """
    beside = model_path.parent.parent / "recipe.py"
    own = load_recipe(beside).data if beside.is_file() else None
    if data is None:
        if own is None:
            raise InputError(f"`--data` must be given for a model without a recipe beside it. Received: {model_path}")
        return own
    if data.suffix == ".py":
        return load_recipe(data).data
    known, size, looks = model.preprocessing, {"image_size": model.backbone.image_size}, {}
    if known is not None and model.backbone.channels == 3:  # photos have three, as `check_data` will say of others
        looks = size | {"crop_fraction": known.crop_fraction, "mean": known.mean, "std": known.std}
    if str(data).startswith(TFDS):
        return dataclasses.replace(only_evaluated(str(data).removeprefix(TFDS)), **size | looks)
    kind = Shards if (data / INDEX).is_file() else ImageFolder
    folder = own if isinstance(own, kind) else kind(**size)
    if kind is ImageFolder and (data / "train").is_dir():
        folder = dataclasses.replace(folder, validation_share=None)
    return dataclasses.replace(folder, path=str(data), **looks)
