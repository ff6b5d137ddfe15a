"""TensorBoard of a training: what each block uses, what that costs, and pictures of it."""

import numbers
import os
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_adavit.data.pipeline import denormalize
from keras_adavit.errors import InputError
from keras_adavit.settings import shorten
from keras_adavit.training import schedules, summaries
from keras_adavit.training.budget import KINDS
from keras_adavit.training.metrics import USAGES, usage_of
from keras_adavit.training.optimizers import largest_factors
from keras_adavit.visualize.figure import to_png
from keras_adavit.visualize.maps import head_usage, patch_usage
from keras_adavit.visualize.patches import kept_patches

PLURALS = {"token": "tokens", "head": "heads", "block": "blocks"}
RESULTS = {"final/accuracy": "accuracy", "final/macs_share": "MACs, share of dense", "final/seconds": "seconds"}
PAGE = {
    "Accuracy and cost": {
        "Accuracy": [r"metrics/.*accuracy.*"],
        "MACs, share of the dense model's, and the target": [r"macs/(share|target)$"],
        "Loss": [r"loss/total$"],
        "Terms of the loss": [r"loss/(?!total$).*"],
    },
    "Usage": {
        "In all gated blocks, and targets": [r"usage/.*"],
        **{f"{name}, by block": [rf"usage_{name}/.*"] for name in USAGES},
    },
    "Schedules": {"Learning rates": [r"learning_rate/.*"], "Temperature of the gates": [r"temperature$"]},
}
LATE = 2**30  # a step after the end of all schedules
COLUMNS, SIZE = 4, 1.0  # of pictures, in inches


class PolicyTensorBoard(keras.callbacks.Callback):
    """Writes what a policy uses, and what that costs, for TensorBoard, on every backend.

    ```python
    board = ka.PolicyTensorBoard("logs/half", validation_images=images, hparams={"seed": 0})
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, validation_data=(images, labels), epochs=2, callbacks=[board])
    ```

    Three curves of each figure, over the training step of the model, which goes on where a loaded model trains on:
    `steps`, means over the last `update_freq` steps, `train` and `validation`, means over an epoch.

    - `loss/`: `total` and each term; `metrics/`: the metrics of `compile`
    - `usage/`: `tokens`, `heads`, `attention`, `mlp` over gated blocks, with the budget's `…_target`
    - `usage_tokens/`, `usage_heads/`, `usage_attention/`, `usage_mlp/`: by block
    - `macs/`: `mean`, `share` of the dense model's, `target`, and a histogram over the images, `share_of_images`
    - `learning_rate/`: `backbone`, `gates`; `temperature`
    - pictures: usage, block × head and block × patch; what each block kept of single images
    - hyperparameters, with accuracy, MACs and seconds at the end, so that runs in folders side by side compare

    The page "Custom Scalars" has them in order.

    Args:
        log_dir: Folder of this run.
        validation_images: Float array (N, S, S, C), as the model is trained on, of some dozens to hundreds of images:
            after an epoch they go through the model as one batch. `None`: no histogram of MACs and no pictures.
        update_freq: Steps between two points of `steps`.
        pictures: How many of the images are pictured.
        picture_freq: Epochs between two pictures; the last epoch has one.
        hparams: Dict of bools, numbers and strings, added to what the model tells: its sizes, gates and targets.
        seconds: Time that the training has taken before, if it goes on.

    Raises:
        InputError: If an argument is something else, the model is no `AdaViTClassifier` or takes other images, or a
            file cannot be written.
    """

    def __init__(
        self,
        log_dir,
        validation_images=None,
        update_freq=50,
        pictures=4,
        picture_freq=1,
        hparams=None,
        seconds=0.0,
    ):
        super().__init__()
        if not isinstance(log_dir, (str, os.PathLike)):
            raise InputError(f"`log_dir` must be the name of a folder. Received: log_dir={shorten(log_dir)}")
        self.log_dir = Path(log_dir)
        self.images = None if validation_images is None else ops.convert_to_numpy(validation_images)
        self.update_freq = check_count("update_freq", update_freq, 1)
        self.pictures = check_count("pictures", pictures, 0)
        self.picture_freq = check_count("picture_freq", picture_freq, 1)
        self.hparams = check_hparams(hparams)
        self.seconds = seconds
        self.logs = {}
        self.files = None

    def set_model(self, model):
        super().set_model(model)
        if not hasattr(model, "policy_metrics"):
            raise InputError(f"`PolicyTensorBoard` needs an `AdaViTClassifier`. Received: {type(model).__name__}")
        expected = model.backbone.image_shape
        if self.images is not None and (self.images.shape[1:] != expected or not len(self.images)):
            raise InputError(
                f"`validation_images` must be images {expected}, as the model takes them. "
                f"Received: shape {self.images.shape}"
            )

    def on_train_begin(self, logs=None):
        self.began = time.monotonic()
        self.step = int(ops.convert_to_numpy(self.model.step))
        self.factors = largest_factors(self.model.optimizer, self.model.trainable_variables)
        self.training = False
        folders = {"": self.log_dir, **{name: self.log_dir / name for name in ("steps", "train", "validation")}}
        self.files = {name: summaries.EventFile(folder, self.step + 1) for name, folder in folders.items()}
        hparams = {**describe_model(self.model), **self.hparams}
        start = summaries.hparams_start(hparams, RESULTS)
        self.files[""].write(self.step, summaries.custom_layout(PAGE), *start)

    def on_epoch_begin(self, epoch, logs=None):
        self.training = True
        self.begin = self.written = self.step
        self.earlier = {}
        self.sums = np.zeros(self.model.policy_metrics.by_block.sums.shape, "float32")
        self.usage = {}

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.begin + batch + 1
        if self.step // self.update_freq == self.written // self.update_freq:
            return
        synchronize(self.model)
        sums = ops.convert_to_numpy(self.model.policy_metrics.by_block.sums)
        means = self.means_since(logs)
        values = {**tags(means), **self.usage_tags(sums - self.sums), **self.schedules()}
        self.files["steps"].write(self.step, *summaries.scalars(values))
        self.earlier, self.sums, self.written = logs, sums.copy(), self.step

    def means_since(self, logs):
        """Logs are means over the epoch so far; those over the steps since the last point, where they are means."""
        now, before = self.step - self.begin, self.written - self.begin
        kept = names_of_means(self.model) & self.earlier.keys()
        since = {name: (logs[name] * now - self.earlier[name] * before) / (now - before) for name in kept}
        return {**logs, **since}

    def on_test_begin(self, logs=None):
        if self.training:  # the metrics are still those of the epoch's training
            self.usage["train"] = self.usage_tags()

    def on_test_end(self, logs=None):
        if self.training:
            self.usage["validation"] = self.usage_tags()

    def on_epoch_end(self, epoch, logs=None):
        self.training = False
        self.logs = dict(logs or {})
        both = {
            "train": {name: value for name, value in self.logs.items() if not name.startswith("val_")},
            "validation": {name[4:]: value for name, value in self.logs.items() if name.startswith("val_")},
        }
        usage = {"train": self.usage_tags, "validation": dict}
        for name, values in both.items():
            if values:
                own = self.usage[name] if name in self.usage else usage[name]()
                self.files[name].write(self.step, *summaries.scalars({**tags(values), **own, **self.schedules()}))
        if self.images is not None:
            last = self.model.stop_training or epoch + 1 == self.params["epochs"]
            self.look(last or (epoch + 1) % self.picture_freq == 0)

    def on_train_end(self, logs=None):
        self.seconds += time.monotonic() - self.began
        name = next((name for name in sorted(self.logs, reverse=True) if "accuracy" in name), None)  # val_ comes first
        share = self.logs.get("val_macs_share", self.logs.get("macs_share"))
        results = dict(zip(RESULTS, (self.logs.get(name), share, self.seconds), strict=True))
        found = {tag: value for tag, value in results.items() if value is not None}
        self.files[""].write(self.step, *summaries.scalars(found), summaries.hparams_end())

    def usage_tags(self, sums=None):
        """Usage by block, by tag, from sums of `UsageByBlock`; by default those of now."""
        if self.model.backbone.gates is None:
            return {}
        sums = self.model.policy_metrics.by_block.sums if sums is None else sums
        usages = zip(USAGES, ops.convert_to_numpy(usage_of(sums)), strict=True)
        return {f"usage_{name}/block_{i:02}": value for name, usage in usages for i, value in enumerate(usage)}

    def schedules(self):
        """What follows a schedule, by tag: learning rates, temperature, targets."""
        model, gates = self.model, self.model.backbone.gates
        rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
        values = {f"learning_rate/{kind}": rate * factor for kind, factor in self.factors.items()}
        if gates is not None:
            temperature = gates.temperature if model.temperature is None else model.temperature
            values["temperature"] = number_at(temperature, self.step)
        return {**values, **targets(model, self.step)}

    def look(self, pictured):
        """Writes what the model does with the images, with pictures or without."""
        outputs = self.model.predict_on_batch(self.images)
        shares = outputs["macs"] / self.model.dense_macs
        found = [summaries.histogram("macs/share_of_images", shares)]
        if pictured and self.model.backbone.gates is not None:
            figures = {
                "usage/block_and_head": head_usage(outputs["head_keep"], outputs["block_keep"]),
                "usage/block_and_patch": patch_usage(outputs["token_keep"]),
            }
            pixels = as_pixels(self.images[: self.pictures], self.model.preprocessing)
            for index in range(len(pixels)):
                own = slice(index, index + 1)
                policy, heading = {name: values[own] for name, values in outputs.items()}, [f"MACs {shares[index]:.2f}"]
                options = {"columns": COLUMNS, "size": SIZE, "title": None}
                figures[f"kept_patches/image_{index}"] = kept_patches(pixels[own], policy, heading, **options)
            found += [summaries.image(tag, to_png(figure)) for tag, figure in figures.items()]
        self.files["validation"].write(self.step, *found)


def tags(logs):
    """Figures by tag, from those by the names of Keras' logs."""
    found = {}
    for name, value in logs.items():
        stem, _, kind = name.rpartition("_")
        if name == "loss" or kind == "loss":
            found[f"loss/{stem or 'total'}"] = value
        elif kind == "usage":
            found[f"usage/{PLURALS.get(stem, stem)}"] = value
        elif name in ("macs", "macs_share"):
            found["macs/mean" if name == "macs" else "macs/share"] = value
        else:
            found[f"metrics/{name}"] = value
    return found


def targets(model, step):
    """The targets of a model's budget at a step, by tag; that of MACs as a share of the dense model's."""
    budget, found = model.budget, {}
    for kind in KINDS if budget is not None else ():
        if not budget.has_term(kind, model.backbone.gates):
            continue
        target = number_at(budget.target(kind), step)
        if kind == "macs":
            found["macs/target"] = target / model.dense_macs if target > 1 else target
        else:
            found[f"usage/{PLURALS[kind]}_target"] = target
    return found


def describe_model(model):
    """What a model tells of itself as hyperparameters: backend, sizes, gates, targets at the end of their schedules."""
    backbone, gates = model.backbone, model.backbone.gates
    kinds = [kind for kind in ("tokens", "heads", "blocks") if gates is not None and getattr(gates, kind)]
    sizes = {name: getattr(backbone, name) for name in ("image_size", "patch_size", "width", "depth", "num_heads")}
    aims = {tag.replace("/", "_"): value for tag, value in targets(model, LATE).items()}
    return {"backend": keras.config.backend(), **sizes, "gates": " ".join(kinds) or "none", **aims}


def names_of_means(model):
    """Names of the logs that are means, so that those of a part of an epoch can be told from two others."""
    every = [each for metric in model.metrics for each in getattr(metric, "metrics", [metric])]
    return {metric.name for metric in every if isinstance(metric, keras.metrics.Mean)}


def number_at(number_or_schedule, step):
    """The number itself, or the schedule's value at a step, to six digits: a float."""
    if isinstance(number_or_schedule, schedules.Schedule):
        return float(f"{float(ops.convert_to_numpy(number_or_schedule(step))):.6g}")
    return float(number_or_schedule)


def as_pixels(images, preprocessing):
    """Pixels in 0..1 of normalised images; where it is not known how they were, their range is stretched."""
    if preprocessing is not None:
        return denormalize(images, preprocessing.mean, preprocessing.std)
    low, high = images.min(), images.max()
    return (images - low) / max(high - low, 1e-6)


def synchronize(model):
    """Lets a model's variables be those of now: on JAX Keras keeps them to itself within an epoch."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def check_count(name, value, least):
    """The value; raises `InputError` unless it is an integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"`{name}` must be an integer from {least} on. Received: {name}={shorten(value)}")
    return int(value)


def check_hparams(hparams):
    """A dict of hyperparameters; raises `InputError` unless its values are bools, numbers and strings."""
    kinds = (bool, str, numbers.Real)
    sound = hparams is None or (
        isinstance(hparams, dict) and all(isinstance(k, str) and isinstance(v, kinds) for k, v in hparams.items())
    )
    if not sound:
        raise InputError(
            "`hparams` must be a dict from names to bools, numbers and strings, or None. "
            f"Received: hparams={shorten(hparams)}"
        )
    return dict(hparams or {})
