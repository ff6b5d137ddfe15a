"""Runs a recipe: the dense model, then the adaptive one from its weights, then both side by side."""

import contextlib
import dataclasses
import json
import os
import time
from pathlib import Path

import keras
import numpy as np

from keras_adavit.data.image_folder import name_bad_images
from keras_adavit.data.pipeline import check_batch_size
from keras_adavit.errors import InputError
from keras_adavit.evaluation import tables, visualize
from keras_adavit.evaluation.evaluate import check_data, evaluate
from keras_adavit.experiments.recipe import save_recipe
from keras_adavit.files import make_folder, write_text
from keras_adavit.memory import check_memory
from keras_adavit.models.backbone import AdaViTBackbone
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.saved import load_model
from keras_adavit.models.validation import count_weights
from keras_adavit.training import schedules
from keras_adavit.training.callbacks import ProgressBar, SaveBest, SaveHistory, SaveLast, StopOnNonFiniteLoss
from keras_adavit.training.losses import CrossEntropy, accuracy
from keras_adavit.training.optimizers import adamw
from keras_adavit.weights.transfer import initialize_from

SMOKE_STEPS = 5


def run(recipe, console):
    """Trains what a recipe says; everything that can be checked is checked before anything is written.

    Every file is written whole: killed at any moment, what is in the folder can be read, and an epoch that was reported
    as ended is in `last.keras` and `history.csv`. TensorBoard's files alone grow as it writes them.

    Args:
        recipe: A `Recipe`.
        console: A `rich` console for progress and the closing table.

    Returns:
        The folder of the results: `recipe.py`; `dense/` and `adaptive/`, each with `best.keras`, `last.keras` and
        `history.csv`; `tensorboard/`; `results.json` and `policy.png`.

    Raises:
        InputError: If the recipe does not fit its data or itself, or a file cannot be written. What was written before
            stays.
        NonFiniteLossError: If a loss is no longer finite. The models of the epochs before it stay.
    """
    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(recipe.precision)
    splits = recipe.data.load(recipe.batch_size, recipe.seed)
    with name_bad_images(splits):
        return train_on(splits, recipe, console)


def train_on(splits, recipe, console):
    """What `run` does once the data is there."""
    check_batch_size(splits, recipe.batch_size)
    if splits.skipped:
        console.print(f"Left out {len(splits.skipped)} images that cannot be decoded, such as {splits.skipped[0]}")
    train, validation = splits.train, splits.validation
    if recipe.smoke:
        train, validation = train.take(SMOKE_STEPS), validation.take(1)
    image_shape = tuple(train.element_spec[0].shape[1:])
    classes = len(splits.class_names)
    check_model_memory(recipe, image_shape)
    if recipe.dense_model is None:
        dense = build_dense(recipe, image_shape, classes)
    else:
        dense = load_model(recipe.dense_model)
        check_data(dense, splits, image_shape)
    adaptive = build_adaptive(recipe, image_shape, classes)
    initialize_from(adaptive, dense)  # again after training; here it shows early that the sizes agree
    recipe.budget.check_model(adaptive.backbone, adaptive.dense_macs)

    folder = new_folder(recipe)
    console.print(
        f"{recipe.name} on {keras.backend.backend()}: {splits.train_examples} training and "
        f"{splits.validation_examples} validation images, {classes} classes; results in {folder}",
        highlight=False,
        soft_wrap=True,
    )
    seconds = {}
    if recipe.dense_model is None:
        seconds["dense"] = fit(dense, recipe, recipe.dense, train, validation, folder / "dense", console)
    initialize_from(adaptive, dense)
    seconds["adaptive"] = fit(adaptive, recipe, recipe.adaptive, train, validation, folder / "adaptive", console)

    found = {"dense": evaluate(dense, validation), "adaptive": evaluate(adaptive, validation)}
    results = {
        name: {**dataclasses.asdict(each), "training_seconds": seconds.get(name)} for name, each in found.items()
    }
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    images, labels = next(iter(validation))
    picture = folder / "policy.png"
    visualize.save_policy_picture(
        adaptive, np.asarray(images), np.asarray(labels), picture, splits.class_names, splits.mean, splits.std
    )
    tables.print_comparison(found, seconds, console)
    tables.print_next_steps(folder, console)
    return folder


def check_model_memory(recipe, image_shape):
    """Raises `InputError` if the model's weights, and what trains them, cannot fit into memory."""
    sizes = {name: getattr(recipe.model, name) for name in ("patch_size", "width", "depth")}
    sizes |= {"image_size": image_shape[0], "channels": image_shape[-1], "token_width": 0}
    floats = 4 * count_weights(sizes, recipe.model.mlp_ratio)  # weights, gradients and the two moments of AdamW
    check_memory(4 * floats, "The weights of `model`, their gradients and the optimizer", recipe.model)


def build_dense(recipe, image_shape, classes):
    """The recipe's model without gates."""
    dropout = {"drop_path": recipe.dense.drop_path, "patch_dropout": recipe.dense.patch_dropout}
    return build_model(recipe, image_shape, classes, gates=None, **dropout)


def build_adaptive(recipe, image_shape, classes):
    """The recipe's model with gates."""
    return build_model(recipe, image_shape, classes, gates=recipe.gates, drop_path=recipe.adaptive.drop_path)


def build_model(recipe, image_shape, classes, **options):
    sizes = dataclasses.asdict(recipe.model)
    return AdaViTClassifier(
        AdaViTBackbone(image_size=image_shape[0], channels=image_shape[-1], **sizes, **options), classes
    )


def fit(model, recipe, training, train, validation, folder, console):
    """Trains one model, `recipe.dense` or `recipe.adaptive`, and returns the seconds that it took."""
    epochs = 1 if recipe.smoke else training.epochs
    steps = epochs * len(train)
    gated = model.backbone.gates is not None
    gate_learning_rate = training.gate_learning_rate if gated else None
    optimizer = adamw(
        training.learning_rate,
        steps,
        int(steps * training.warmup),
        training.final_learning_rate,
        training.weight_decay,
        training.clip_norm,
        gate_learning_rate,
    )
    budget = {}
    if gated:
        ramp_steps = int(steps * training.budget_ramp)
        budget = {
            "budget": ramp_budget(recipe.budget, model.dense_macs, ramp_steps),
            "temperature": temperature_schedule(recipe.gates.temperature, training.final_temperature, steps),
        }
    model.compile(
        optimizer,
        loss=CrossEntropy(training.label_smoothing),
        metrics=[accuracy],
        # On torch `jit_compile` is not XLA but torch.compile, which is not what the recipe speaks of.
        jit_compile="auto" if recipe.xla is None or keras.backend.backend() == "torch" else recipe.xla,
        **budget,
    )
    make_folder(folder)
    macs_target = recipe.budget.macs_target if gated else None
    share = macs_target / model.dense_macs if macs_target and macs_target > 1 else macs_target
    first_epoch = int(np.ceil(epochs * training.budget_ramp)) if gated else 0
    progress = ProgressBar(folder.name, console)
    callbacks = [
        StopOnNonFiniteLoss(),
        SaveLast(folder / "last.keras"),
        SaveBest(folder / "best.keras", share, min(first_epoch, epochs - 1)),
        SaveHistory(folder / "history.csv"),
        progress,
        keras.callbacks.TensorBoard(folder.parent / "tensorboard" / folder.name, write_graph=False),
    ]
    start = time.perf_counter()
    try:
        model.fit(train, validation_data=validation, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks)
    finally:
        progress.stop()
    return time.perf_counter() - start


def ramp_budget(budget, dense_macs, steps):
    """The budget with targets that fall linearly from 1, the dense model, over `steps` training steps."""
    if not steps:
        return budget
    falling = {}
    for kind in ("token", "head", "block", "macs"):
        target = budget.target(kind)
        if target is not None:
            target = target / dense_macs if target > 1 else target
            falling[f"{kind}_target"] = schedules.linear(1.0, target, steps)
    return dataclasses.replace(budget, **falling)


def temperature_schedule(start, end, steps):
    """Temperature of the gates over the training; `None` if it stays as it is."""
    return None if end is None else schedules.linear(start, end, steps)


def new_folder(recipe):
    """Makes the folder of the results, which must be new or empty, with the recipe in it."""
    if recipe.output is not None:
        folder = Path(recipe.output)
        if not claim(folder, recipe, empty=True):
            raise InputError(f"`output` must be a new or an empty folder. Received: output={recipe.output!r}")
        return folder
    folder, number = Path("runs") / recipe.name, 1
    while not claim(folder, recipe):
        number += 1
        folder = Path("runs") / f"{recipe.name}-{number}"
    return folder


def claim(folder, recipe, empty=False):
    """Makes a folder this run's own and returns true, or returns false where it is another's; an empty one may do.

    A folder belongs to the run that makes `tensorboard/` in it: of several runs that try at once, one succeeds.
    """
    new = make_folder(folder)
    if not new and not (empty and is_empty(folder)):
        return False
    try:
        if not make_folder(folder / "tensorboard"):
            return False
        save_recipe(recipe, folder / "recipe.py")
    except InputError:  # nothing has begun: only what was there before stays
        for made in [folder / "tensorboard", folder][: 1 + new]:
            with contextlib.suppress(OSError):
                made.rmdir()
        raise
    return True


def is_empty(folder):
    return os.access(folder, os.R_OK) and folder.is_dir() and not any(folder.iterdir())
