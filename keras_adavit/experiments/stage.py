"""One training of a recipe: of the classifier, the dense model or the adaptive one."""

import dataclasses
import math

import keras
import numpy as np

from keras_adavit.data.pipeline import from_epoch
from keras_adavit.devices.base import Devices
from keras_adavit.errors import InputError
from keras_adavit.experiments.folder import CHECKPOINT
from keras_adavit.experiments.recipe import BlockTraining
from keras_adavit.files import make_folder
from keras_adavit.models.saved import load_model
from keras_adavit.training import schedules
from keras_adavit.training.averaging import AverageWeights
from keras_adavit.training.callbacks import (
    ProgressBar,
    SaveBest,
    SaveHistory,
    SaveLast,
    StopEarly,
    StopOnNonFiniteLoss,
    read_history,
)
from keras_adavit.training.checkpoint import (
    Checkpoint,
    Progress,
    WholeEpochMeans,
    restore,
    save_progress,
    state_variables,
)
from keras_adavit.training.losses import CrossEntropy, accuracy
from keras_adavit.training.optimizers import GATE_KINDS, adamw, gate_factors, layer_factors
from keras_adavit.training.tensorboard import PolicyTensorBoard
from keras_adavit.weights.transfer import initialize_from

SMOKE_STEPS = 5
PICTURES = 10  # of a validation image, over a training


def train(model, name, recipe, splits, folder, console, start=None, seconds=None, teacher=None, devices=None):
    """Trains a model as a recipe says.

    Args:
        model: The `AdaViTClassifier`; it ends with the weights of the last epoch, or their averages.
        name: Of the training in the recipe: `"classifier"`, `"dense"` or `"adaptive"`.
        recipe: The `Recipe`.
        splits: The `Splits` of its data.
        folder: Folder of the run.
        console: A `rich` console.
        start: `Progress` of this training, if it was stopped before.
        seconds: Time that the trainings before it have taken, by name.
        teacher: The dense model that distillation imitates, if there is one.
        devices: The `Devices` that train; one if not given.

    Returns:
        Time that this training and those before it have taken, by name.

    Raises:
        InputError: If the data or the backend are not those with which the training began.
    """
    training, devices = getattr(recipe, name), devices or Devices()
    epochs = 1 if recipe.smoke else training.epochs
    steps = min(len(splits.train), SMOKE_STEPS) if recipe.smoke else len(splits.train)
    backend = keras.backend.backend()
    start = start or Progress(name, seconds=seconds or {}, steps=steps, backend=backend)
    if (start.steps, start.backend) != (steps, backend):
        raise InputError(
            f"`--resume` needs the data and the backend of the run, {start.steps} batches an epoch on {start.backend}. "
            f"Received: {steps} batches on {backend}"
        )
    compile_model(model, recipe, training, epochs, steps, teacher, devices)
    own, checkpoint = folder / name, folder / CHECKPOINT
    make_folder(own)
    if start.epoch or start.batch:
        model.optimizer.build(model.trainable_variables)
        restore(state_variables(model), checkpoint)
    rows = read_history(own / "history.csv", start.epoch)
    share, first_epoch = what_counts(model, recipe, training, epochs)
    stop = StopEarly(training.patience or epochs, first_epoch, rows)
    averaging = AverageWeights() if training.average is not None else None
    progress = ProgressBar(name, console)
    saving = Checkpoint(checkpoint, start, recipe.checkpoint_minutes, averaging)
    callbacks = [
        StopOnNonFiniteLoss(start.epoch * steps + start.batch),
        WholeEpochMeans(start),
        *([averaging] if averaging else []),
        stop,
        SaveLast(own / "last.keras"),
        SaveBest(own / "best.keras", share, first_epoch, rows),
        SaveHistory(own / "history.csv", rows),
        progress,
        PolicyTensorBoard(
            folder / "tensorboard" / name,
            # Of several hosts none has all that a model predicts.
            validation_images=None if devices.hosts > 1 else np.asarray(next(iter(splits.validation))[0]),
            picture_freq=max(epochs // PICTURES, 1),
            hparams=hyperparameters(recipe, name),
            seconds=start.seconds.get(name, 0.0),
        ),
        saving,
    ]
    # The rest of an epoch that was begun before, then whole ones.
    first = start.epoch + 1 if start.batch else start.epoch
    try:
        for epoch, batch, last in ((start.epoch, start.batch, first), (first, 0, epochs)):
            if epoch == last or stop.is_over():
                continue
            model.fit(
                devices.distribute(from_epoch(splits, epoch, batch, steps), recipe.batch_size),
                validation_data=splits.validation.take(1) if recipe.smoke else splits.validation,
                initial_epoch=epoch,
                epochs=last,
                steps_per_epoch=steps - batch,
                verbose=0,
                shuffle=False,
                callbacks=callbacks,
            )
    finally:
        progress.stop()
    if stop.is_over() or start.epoch == epochs:  # of a training that was stopped after its last epoch, too
        initialize_from(model, load_model(own / "last.keras"))
    finished = saving.progress(epoch=epochs, finished=True)
    save_progress(checkpoint, finished, model.variables)
    return finished.seconds


def hyperparameters(recipe, name):
    """What differs between trainings of a kind, for TensorBoard: a dict of bools, numbers and strings."""
    training = {
        field: value for field, value in vars(getattr(recipe, name)).items() if not dataclasses.is_dataclass(value)
    }
    found = {"training": name, "batch_size": recipe.batch_size, "seed": recipe.seed, **training}
    return {field: "none" if value is None else value for field, value in found.items()}


def compile_model(model, recipe, training, epochs, steps_per_epoch, teacher, devices):
    """Compiles a model for a training of so many `epochs` of so many batches."""
    steps = epochs * steps_per_epoch
    scale = 1.0
    if training.reference_batch is not None:
        scale = recipe.batch_size * training.accumulate / training.reference_batch
    gated = model.backbone.gates is not None
    factors, options = {}, {}
    if isinstance(training, BlockTraining):
        factors |= layer_factors(training.layer_decay, model.backbone.depth)
    if gated:
        rate = (training.gate_learning_rate or training.learning_rate) / training.learning_rate
        factors |= gate_factors(rate, {kind: getattr(training, f"{kind}_gate_scale") for kind in GATE_KINDS})
        options = {
            "budget": ramp_budget(recipe.budget, model.dense_macs, int(steps * training.budget_ramp)),
            "temperature": temperature_schedule(recipe.gates.temperature, training.final_temperature, steps),
        }
        if training.policy is not None:
            options["training_policy"] = training.policy
        if recipe.distillation is not None:
            options |= {"teacher": teacher, "distillation": recipe.distillation}
    # On torch `jit_compile` is not XLA but torch.compile, which is not what the recipe speaks of.
    decided = recipe.xla is not None and keras.backend.backend() != "torch"
    compiled = recipe.xla and not devices.by_itself if decided else "auto"
    model.compile(
        adamw(
            scale * training.learning_rate,
            steps,
            steps_of(training.warmup, steps),
            scale * training.final_learning_rate,
            training.weight_decay,
            training.clip_norm,
            training.global_clip_norm,
            factors,
            training.average,
            training.accumulate,
            scale * training.first_learning_rate,
            steps_of(training.cooldown, steps),
            steps_per_epoch if training.step_every_epoch else None,
            training.epsilon,
            gated and training.decay_gates,
        ),
        loss=CrossEntropy(training.label_smoothing),
        metrics=[accuracy],
        jit_compile=compiled,
        **options,
    )


def steps_of(share, steps):
    """Whole steps of a share; 10 / 310 of 310 is 10, however it was rounded."""
    return int(share * steps + 1e-6)


def what_counts(model, recipe, training, epochs):
    """The share of the dense MACs that the best epoch may use, `None` for any, and the first epoch that may be it."""
    if model.backbone.gates is None:
        return None, 0
    target = recipe.budget.macs_target
    share = target / model.dense_macs if target and target > 1 else target
    return share, min(math.ceil(epochs * training.budget_ramp), epochs - 1)


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
