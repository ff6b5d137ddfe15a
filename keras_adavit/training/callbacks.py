"""Callbacks of a training: progress, what is saved, and a stop where the loss is no longer finite."""

import csv
import io
import math

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keras_adavit.files import write_text, write_whole

SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "macs_share": "MACs",
    "token_usage": "tokens",
    "head_usage": "heads",
    "attention_usage": "attention",
    "mlp_usage": "MLP",
}


class NonFiniteLossError(ArithmeticError):
    """A term of the loss is no longer finite."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Raises `NonFiniteLossError` with the step and the term; comes before the callbacks that save.

    Args:
        step: Batches trained on before.
    """

    def __init__(self, step=0):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self._check(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs)

    def _check(self, logs):
        losses = {name: float(value) for name, value in (logs or {}).items() if name.endswith("loss")}
        # Once one is not finite, sums and often other terms follow: the task's comes first, the total last.
        order = {"task_loss": 0, "loss": 2}
        for name in sorted(losses, key=lambda name: order.get(name.removeprefix("val_"), 1)):
            if not math.isfinite(losses[name]):
                raise NonFiniteLossError(f"`{name}` is {losses[name]} at training step {self.step}")


class SaveBest(keras.callbacks.Callback):
    """Saves the model after the epoch with the best validation accuracy among those within the budget.

    While no epoch is within the budget, the one with the fewest MACs is the best.

    Args:
        path: File to write.
        macs_share: Budget as a share of the dense model's MACs; `None` looks at the accuracy alone.
        first_epoch: Epochs before this one, counted from 0, do not count: the budget may not yet be at its target.
        rows: Figures of the epochs before, as of `SaveHistory`, of a training that goes on.
    """

    def __init__(self, path, macs_share=None, first_epoch=0, rows=()):
        super().__init__()
        self.path = path
        self.macs_share = math.inf if macs_share is None else macs_share
        self.first_epoch = first_epoch
        self.best = None
        for row in rows:
            self.is_best(row["epoch"], row)

    def on_epoch_end(self, epoch, logs=None):
        if self.is_best(epoch, logs):
            save_model(self.model, self.path)

    def is_best(self, epoch, logs):
        """Whether an epoch is better than all before, which it then is one of."""
        excess = max(logs["val_macs_share"] - self.macs_share, 0.0)
        rank = (-excess, logs["val_accuracy"])
        if epoch < self.first_epoch or (self.best is not None and rank <= self.best):
            return False
        self.best = rank
        return True


class SaveLast(keras.callbacks.Callback):
    """Saves the model after each epoch.

    Args:
        path: File to write.
    """

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        save_model(self.model, self.path)


class SaveHistory(keras.callbacks.Callback):
    """Keeps the figures of each epoch in a .csv file.

    It comes after the callbacks that save models, so that a model is on disk before the row that speaks of it: after a
    kill, the model saved last is that of the last row, or of the epoch after it.

    Args:
        path: File to write.
        rows: Figures of the epochs before, of a training that goes on.
    """

    def __init__(self, path, rows=()):
        super().__init__()
        self.path = path
        self.rows = list(rows)

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch, **dict(sorted(logs.items()))})
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def read_history(path, epochs):
    """The figures of the first `epochs` epochs in a file of `SaveHistory`: a list of dicts, empty without a file."""
    if not epochs or not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items()} | {"epoch": int(row["epoch"])} for row in rows[:epochs]]


class StopEarly(keras.callbacks.Callback):
    """Ends a training whose validation accuracy no longer rises. Keras' own knows nothing of epochs before a stop.

    Args:
        patience: Epochs without a better one.
        first_epoch: Epochs before this one, counted from 0, do not count.
        rows: Figures of the epochs before, as of `SaveHistory`, of a training that goes on.
    """

    def __init__(self, patience, first_epoch=0, rows=()):
        super().__init__()
        self.patience = patience
        self.accuracies = [row["val_accuracy"] for row in rows if row["epoch"] >= first_epoch]
        self.first_epoch = first_epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= self.first_epoch:
            self.accuracies.append(logs["val_accuracy"])
        if self.is_over():
            self.model.stop_training = True

    def is_over(self):
        """Whether the best of the epochs so far is more than the patience behind."""
        if not self.accuracies:
            return False
        best = self.accuracies.index(max(self.accuracies))
        return len(self.accuracies) - 1 - best >= self.patience


def save_model(model, path):
    """Writes a model over the one before, which stays until the new one is whole."""
    with write_whole(path) as unfinished:
        model.save(unfinished)


class ProgressBar(keras.callbacks.Callback):
    """One bar an epoch; its final line keeps the epoch's figures, validation behind a slash.

    It comes after the callbacks that save: an epoch whose line is printed is on disk.

    Args:
        title: What is trained.
        console: A `rich` console.
    """

    def __init__(self, title, console):
        super().__init__()
        self.title = title
        self.console = console
        self.progress = None

    def on_epoch_begin(self, epoch, logs=None):
        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(
            *columns,
            TextColumn("{task.fields[logs]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,  # a log file gets the line of each epoch alone
        )
        title = f"{self.title} {epoch + 1}/{self.params['epochs']}"
        self.task = self.progress.add_task(title, total=self.params["steps"], logs="")
        self.progress.start()

    def on_train_batch_end(self, batch, logs=None):
        self.progress.update(self.task, completed=batch + 1, logs=describe(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.stop()
        self.console.print(
            f"{self.title} {epoch + 1}/{self.params['epochs']}  {describe(logs)}", highlight=False, soft_wrap=True
        )

    def stop(self):
        """Gives the terminal back; also where an error ends the training."""
        if self.progress is not None:
            self.progress.stop()


def describe(logs):
    """Figures of a step or an epoch in one line."""
    parts = []
    for name, shown in SHOWN.items():
        if name in (logs or {}):
            validation = f"/{logs[f'val_{name}']:.3f}" if f"val_{name}" in logs else ""
            parts.append(f"{shown} {logs[name]:.3f}{validation}")
    return "  ".join(parts)
