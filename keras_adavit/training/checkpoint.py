"""A file from which a training that was stopped goes on as if it had not been."""

import dataclasses
import json
import time
import zipfile

import keras
import numpy as np
from keras import ops

from keras_adavit.archives import find_damage, open_file
from keras_adavit.errors import InputError, printable
from keras_adavit.files import write_whole

META = "training"  # name of the entry that is not an array of the model


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        stage: Name of the stage, such as `"dense"`.
        epoch: Epochs that are over.
        batch: Batches of the next epoch that are over too.
        logs: Means over these batches, by name.
        seconds: Time that this stage and those before it have taken, by name.
        steps: Batches of an epoch.
        backend: Name of Keras' backend.
        finished: Whether the stage is over; the file then has the model's variables, without the optimizer's.
    """

    stage: str
    epoch: int = 0
    batch: int = 0
    logs: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    steps: int = 0
    backend: str = ""
    finished: bool = False


class Checkpoint(keras.callbacks.Callback):
    """Writes the state of a training after every epoch, and after so many minutes within one.

    It comes last: what the callbacks before it write about an epoch is on disk before the file says that it is over.

    Args:
        path: File to write, whole or not at all.
        start: `Progress` of the training when `fit` begins.
        minutes: Time between two files within an epoch.
        averaging: The `AverageWeights` of the training, if there is one.
    """

    def __init__(self, path, start, minutes, averaging=None):
        super().__init__()
        self.path = path
        self.start = start
        self.minutes = minutes
        self.averaging = averaging
        self.began = time.monotonic() - start.seconds.get(start.stage, 0.0)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.written = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        # After the last batch the end of the epoch writes: to `fit`, no batches left would mean no end.
        if batch + 1 == self.params["steps"]:
            return
        if time.monotonic() - self.written < 60 * self.minutes:
            return
        if keras.backend.backend() == "jax":  # Keras keeps the variables to itself within an epoch
            self.model.jax_state_sync()
        before = self.start.batch if self.epoch == self.start.epoch else 0
        logs = {name: float(value) for name, value in logs.items()}
        if before:
            logs = join_means(self.start.logs, before, logs, batch + 1)
        self.save(self.progress(epoch=self.epoch, batch=before + batch + 1, logs=logs))
        self.written = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        if self.averaging is not None:
            self.averaging.restore()
        self.save(self.progress(epoch=epoch + 1))
        if self.averaging is not None:
            self.averaging.swap_in()

    def progress(self, **changes):
        """The `Progress` of now, of which the stage, the times, the steps and the backend are known here."""
        seconds = self.start.seconds | {self.start.stage: time.monotonic() - self.began}
        return dataclasses.replace(self.start, **{"batch": 0, "logs": {}, "seconds": seconds, **changes})

    def save(self, progress):
        """Writes the file with the variables of model and optimizer."""
        save_progress(self.path, progress, state_variables(self.model))


class WholeEpochMeans(keras.callbacks.Callback):
    """Makes the figures of an epoch that began before this process those of the whole epoch. It comes first.

    Args:
        start: `Progress` of the training when `fit` begins.
    """

    def __init__(self, start):
        super().__init__()
        self.start = start
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.start.epoch and self.start.batch:
            logs.update(join_means(self.start.logs, self.start.batch, logs, self.batches))


def join_means(first, first_count, second, second_count):
    """Means over two runs of batches, by name, from those over each; what only the second has, as it is there."""
    total = first_count + second_count
    joined = {
        name: (first[name] * first_count + float(value) * second_count) / total
        for name, value in second.items()
        if name in first
    }
    return {**second, **joined}


def state_variables(model):
    """All that a training step reads and changes: weights, seeds, step counters, the optimizer's own; no metrics."""
    return [*model.variables, *model.optimizer.variables]


def save_progress(path, progress, variables=()):
    """Writes a checkpoint, whole or not at all."""
    arrays = {str(index): ops.convert_to_numpy(variable) for index, variable in enumerate(variables)}
    with write_whole(path) as unfinished, open(unfinished, "wb") as file:
        np.savez(file, **{META: np.array(json.dumps(dataclasses.asdict(progress)))}, **arrays)


def read_progress(path):
    """The `Progress` in a checkpoint.

    Raises:
        InputError: If the file is damaged, or something else.
    """
    with open_file(path, "checkpoint") as file:
        damage = find_damage(file)
        if damage:
            raise InputError(f"The checkpoint must be whole. Received: {printable(path)}, but {damage}")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return Progress(**json.loads(str(arrays[META])))
        except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"The checkpoint must be one of a training. Received: {printable(path)}") from error


def restore(variables, path):
    """Gives variables the values of a checkpoint, which were those of as many of the same shapes.

    Raises:
        InputError: If it is of others; nothing is changed then.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = [file[str(index)] for index in range(len(file.files) - 1)]
    shapes, expected = [array.shape for array in arrays], [tuple(variable.shape) for variable in variables]
    if shapes != expected:
        raise InputError(
            f"The checkpoint must be of the recipe's model, of {len(expected)} arrays. "
            f"Received: {printable(path)} with {len(shapes)}, or of other shapes"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
