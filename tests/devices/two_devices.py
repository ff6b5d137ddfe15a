"""Trains a recipe on one CPU device, and on two with a stop in between, in a process that has two.

python tests/devices/two_devices.py FOLDER  # writes the runs one/ and two/

Where the environment has several hosts, it is one of these, which go on with the folder and write the run hosts/.
"""

# ruff: noqa: E402, the number of devices is fixed before they are looked at

import dataclasses
import json
import os
import sys
from pathlib import Path

HOSTS = "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ
if not HOSTS:
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import keras
import tensorflow as tf
from rich.console import Console

if not HOSTS:
    configuration = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], configuration)

import keras_adavit as ka
from keras_adavit.evaluation.evaluate import evaluate
from keras_adavit.experiments import AdaptiveTraining, BudgetLoss, Digits, DistillationLoss, GateConfig, Model, Recipe
from keras_adavit.experiments import run as running
from keras_adavit.training.callbacks import ProgressBar

FOLDER = Path(sys.argv[1])
VALIDATION = 257  # of which the last batch has one image, which leaves none to the second device
load = Digits.load


def load_fewer(self, *options):
    splits = load(self, *options)
    validation = splits.validation.unbatch().take(VALIDATION).batch(options[0])
    return dataclasses.replace(splits, validation=validation, validation_examples=VALIDATION)


def close(models, recipe, splits, seconds, folder, console):
    """Of the end of a run only what tells devices apart: timings and pictures take long."""
    found = evaluate(models["adaptive"], splits.validation.take(1))
    (folder / "results.json").write_text(json.dumps(dataclasses.asdict(found)))


Digits.load, running.close = load_fewer, close
keras.utils.set_random_seed(0)
sizes = {"patch_size": 8, "width": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}
if not HOSTS:
    dense = ka.AdaViTBackbone(image_size=24, channels=1, **sizes)
    ka.AdaViTClassifier(dense, 10, class_names=tuple("0123456789")).save(FOLDER / "dense.keras")
terms = {"head_entropy": 0.1, "block_diversity": 0.1, "token_minimum": 0.9, "token_minimum_weight": 0.1}
recipe = Recipe(
    name="tiny",
    data=Digits(image_size=24, min_digit=12, max_digit=20, validation_draws=1),
    dense_model=str(FOLDER / "dense.keras"),
    model=Model(**sizes),
    # Thresholds near the first decisions, so that usage differs from image to image.
    gates=GateConfig(first_gated_block=1, initial_bias=0.35, block_threshold=0.59, head_threshold=0.59),
    budget=BudgetLoss(token_target=0.4, head_target=0.3, block_target=0.6, macs_target=0.6, **terms),
    # A large epsilon: AdamW makes whole steps of gradients that are zero but for rounding.
    adaptive=AdaptiveTraining(epochs=1, epsilon=1e-2, average=0.8, clip_norm=0.05, drop_path=0.5, budget_ramp=0),
    distillation=DistillationLoss(),
    batch_size=256,
    xla=False,
    checkpoint_minutes=1e-9,  # after every batch
)
console, seen = Console(quiet=True), []
if not HOSTS:
    running.run(dataclasses.replace(recipe, output=str(FOLDER / "one")), console)


def stop(self, batch, logs=None):
    seen.append(batch)
    if len(seen) == 3:
        raise KeyboardInterrupt


on_batch_end, ProgressBar.on_train_batch_end = ProgressBar.on_train_batch_end, stop
folder = FOLDER / ("hosts" if HOSTS else "two")
recipe = dataclasses.replace(recipe, devices="all", output=str(folder))
try:
    running.run(recipe, console)
except KeyboardInterrupt:
    ProgressBar.on_train_batch_end = on_batch_end
    running.run(recipe, console, folder)
