"""Runs a recipe: the dense model, then the adaptive one from its weights, then both side by side."""

import dataclasses
import json
import shlex
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

from keras_adavit.data.image_folder import name_bad_images
from keras_adavit.data.part import Part
from keras_adavit.data.pipeline import check_batch_size, start_tensorflow
from keras_adavit.devices.dispatch import find_devices
from keras_adavit.errors import InputError
from keras_adavit.evaluation import tables
from keras_adavit.evaluation.calibration import calibrate
from keras_adavit.evaluation.evaluate import check_data, evaluate
from keras_adavit.evaluation.pictures import policy_picture
from keras_adavit.evaluation.timing import measure
from keras_adavit.experiments.build import (
    build_adaptive,
    build_dense,
    check_model_memory,
    start_dense,
    train_classifier_alone,
    train_gates_alone,
)
from keras_adavit.experiments.folder import CHECKPOINT, LOCK, RESULTS, locked, new_folder
from keras_adavit.experiments.stage import SMOKE_STEPS, train
from keras_adavit.files import write_text
from keras_adavit.models.saved import load_model
from keras_adavit.training.callbacks import save_model
from keras_adavit.training.checkpoint import read_progress, restore
from keras_adavit.visualize.figure import save
from keras_adavit.weights.transfer import initialize_from

CALIBRATION_IMAGES = 512
PICTURED = 6
STAGES = ("classifier", "dense", "adaptive")


def run(recipe, console, folder=None):
    """Trains what a recipe says; everything that can be checked is checked before anything is written.

    Every file is written whole: killed at any moment, what is in the folder can be read, and an epoch that was reported
    as ended is in `last.keras` and `history.csv`. TensorBoard's files alone grow as it writes them. A run that was
    stopped goes on from its last checkpoint; the data are then drawn as if it had not been, but for those of TensorFlow
    Datasets.

    Args:
        recipe: A `Recipe`.
        console: A `rich` console for progress and the closing table.
        folder: Folder of a run of this recipe that was stopped, to go on with; `None` makes a new one.

    Returns:
        The folder of the results: `recipe.py`; `classifier/`, `dense/` and `adaptive/`, each with `best.keras`,
        `last.keras` and `history.csv`; `tensorboard/`; `results.json`, `policy.png`, and `split.csv` where the recipe
        splits the data.

    Raises:
        InputError: If the recipe does not fit its data or itself, or a file cannot be written. What was written before
            stays.
        NonFiniteLossError: If a loss is no longer finite. The models of the epochs before it stay.
        StoppedError: If it is interrupted once training has begun.
    """
    start_tensorflow()  # which Keras seeds too, whatever the backend
    devices = find_devices(recipe.devices)
    check_devices(recipe, devices)
    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(recipe.precision)
    splits = recipe.data.load(recipe.batch_size, recipe.seed, Part(devices.host, devices.hosts))
    with name_bad_images(splits):
        if devices.host == 0:
            return train_on(splits, recipe, console, folder, devices)
        with tempfile.TemporaryDirectory() as own:
            follow(splits, recipe, folder, Path(own) / "run", devices)
    return folder


def follow(splits, recipe, folder, own, devices):
    """Trains along with the first host, and does all that it does, but in a folder `own` that nobody keeps."""
    if folder is not None:
        shutil.copytree(folder, own, ignore=shutil.ignore_patterns("tensorboard", LOCK))
    recipe = dataclasses.replace(recipe, output=str(own))
    train_on(splits, recipe, Console(quiet=True), None if folder is None else own, devices)


class StoppedError(KeyboardInterrupt):
    """A training that was interrupted and can go on, as its message says."""


def check_devices(recipe, devices):
    """Raises `InputError` unless the devices can train the recipe."""
    if recipe.batch_size % devices.count:
        raise InputError(
            f"`batch_size` must be a multiple of the {devices.count} devices. Received: batch_size={recipe.batch_size}"
        )
    found = {
        "accumulate": max(getattr(recipe, name).accumulate for name in STAGES),
        "precision": recipe.precision,
    }
    for name, refused, expected in (
        ("accumulate", found["accumulate"] > 1, "1"),
        ("precision", recipe.precision == "mixed_float16", "float32 or mixed_bfloat16"),
    ):
        if refused and devices.by_itself:
            raise InputError(
                f"`{name}` must be {expected} on several devices of TensorFlow, each of which runs a step by itself. "
                f"Received: {name}={found[name]!r} on {devices.count} devices"
            )


def train_on(splits, recipe, console, folder, devices):
    """What `run` does once the data is there."""
    check_batch_size(splits, recipe.batch_size)
    if splits.skipped:
        console.print(f"Left out {len(splits.skipped)} images that cannot be decoded, such as {splits.skipped[0]}")
    with devices.scope():
        models = make_models(splits, recipe, console)
    resumed = folder is not None
    folder = folder if resumed else new_folder(recipe)
    with locked(folder):
        if (folder / RESULTS).is_file():
            raise InputError(f"`--resume` must be the folder of a run that is not finished. Received: {folder}")
        several = f", {devices.count} devices" if devices.count > 1 else ""
        several += f" of {devices.hosts} hosts" if devices.hosts > 1 else ""
        console.print(
            f"{recipe.name} on {keras.backend.backend()}{several}: {splits.train_examples} training and "
            f"{splits.validation_examples} validation images, {len(splits.class_names)} classes; results in {folder}",
            highlight=False,
            soft_wrap=True,
        )
        if recipe.xla and devices.by_itself:
            console.print("Without XLA, in which several devices of TensorFlow cannot wait for each other")
        if recipe.xla and keras.backend.backend() == "torch":  # which alone has none
            console.print("Without XLA, which torch has not: steps are not compiled")
        if splits.split_table is not None:
            write_split(splits.split_table, folder / "split.csv")
        try:
            with devices.scope():
                seconds = train_stages(models, recipe, splits, folder, console, resumed, devices)
        except KeyboardInterrupt as error:
            command = f"{tables.backend_prefix()}keras-adavit train --resume {shlex.quote(str(folder))}"
            raise StoppedError(f"interrupted; to go on: {command}") from error
        if devices.hosts > 1:
            models = on_one_device(models)
            splits = recipe.data.load(recipe.batch_size, recipe.seed)
        close(models, recipe, splits, seconds, folder, console)
    return folder


def make_models(splits, recipe, console):
    """The models of a recipe as their training begins, by the name of the stage."""
    image_shape = tuple(splits.train.element_spec[0].shape[1:])
    check_model_memory(recipe, image_shape)
    if recipe.dense_model is None:
        dense = build_dense(recipe, splits, image_shape)
    else:
        dense = load_model(recipe.dense_model)
        check_data(dense, splits, image_shape)
    models = {"classifier": dense, "dense": dense}
    if recipe.adaptive.epochs:
        adaptive = models["adaptive"] = build_adaptive(recipe, splits, image_shape)
        initialize_from(adaptive, dense)  # again after training; here it shows early that the sizes agree
        recipe.budget.check_model(adaptive.backbone, adaptive.dense_macs)
    start_dense(dense, recipe, console)
    return models


def on_one_device(models):
    """The trained models of several hosts, for one device of this process alone."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in models.keys() - {"classifier"}:
            path = Path(folder) / f"{name}.keras"
            save_model(models[name], path)
            found[name] = load_model(path)
    return found


def write_split(table, path):
    """Writes what is held out; raises `InputError` if the run began with something else."""
    if path.is_file() and path.read_text(encoding="utf-8") != table:
        raise InputError(f"The images must be those with which the run began, as {path} has them. Received: others")
    write_text(path, table)


def train_stages(models, recipe, splits, folder, console, resumed, devices):
    """Trains the models of the stages that a recipe has, or what is left of them, and returns the seconds of each."""
    stages = [
        name
        for name in STAGES
        if name in models and getattr(recipe, name).epochs and (name == "adaptive" or recipe.dense_model is None)
    ]
    checkpoint = folder / CHECKPOINT
    progress = read_progress(checkpoint) if resumed and checkpoint.is_file() else None
    dense, seconds = models["dense"], {}
    for name in stages:
        model = models[name]
        if name == "adaptive":
            initialize_from(model, dense)
        if progress is not None and name != progress.stage:
            initialize_from(model, load_model(folder / name / "last.keras"))
            continue
        if progress is not None and progress.finished:
            restore(model.variables, checkpoint)  # seeds too, where the next training goes on with this model
            progress, seconds = None, progress.seconds
            continue
        trainable = list(model.trainable_variables)
        if name == "classifier":
            train_classifier_alone(model)
        elif name == "adaptive" and recipe.adaptive.train == "gates":
            train_gates_alone(model)
        seconds = train(model, name, recipe, splits, folder, console, progress, seconds, dense, devices)
        progress = None
        for variable in trainable:
            variable.trainable = True
    return seconds


def close(models, recipe, splits, seconds, folder, console):
    """Evaluates the models of a run side by side, and writes and prints what was found."""
    validation = splits.validation.take(1) if recipe.smoke else splits.validation
    if "adaptive" in models and recipe.adaptive.calibrate:
        batches = SMOKE_STEPS if recipe.smoke else -(-CALIBRATION_IMAGES // recipe.batch_size)
        share = calibrate(models["adaptive"], splits.calibration.take(batches).cache(), recipe.budget.macs_target)
        console.print(f"Calibrated on training images to {share:.3f} of the dense model's MACs", highlight=False)
        save_model(models["adaptive"], folder / "adaptive" / "last.keras")
    kept = {name: models[name] for name in ("dense", "adaptive") if name in models}
    found = {name: evaluate(model, validation) for name, model in kept.items()}
    results = {
        name: {**dataclasses.asdict(each), "training_seconds": seconds.get(name)} for name, each in found.items()
    }
    images, labels = (np.asarray(part) for part in next(iter(validation)))
    timing = None
    if "adaptive" in kept:
        timing = measure(kept["adaptive"], images, rounds=3)
        results["timing"] = dataclasses.asdict(timing)
        images, labels = images[:PICTURED], labels[:PICTURED]
        picture = policy_picture(kept["adaptive"], images, labels, splits.class_names, splits.mean, splits.std)
        save(picture, folder / "policy.png")
    tables.print_comparison(found, seconds, console, timing)
    tables.print_next_steps(folder, console)
    write_text(folder / RESULTS, json.dumps(results, indent=2) + "\n")
    (folder / CHECKPOINT).unlink(missing_ok=True)
