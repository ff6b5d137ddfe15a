import csv
import errno
import io
import os
import resource

import keras
import numpy as np
import pytest
from rich.console import Console

import keras_adavit as ka
from keras_adavit.training.callbacks import (
    NonFiniteLossError,
    ProgressBar,
    SaveBest,
    SaveHistory,
    SaveLast,
    StopOnNonFiniteLoss,
)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def model():
    backbone = ka.AdaViTBackbone(image_size=8, patch_size=4, width=8, depth=2, num_heads=2, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, num_classes=3)
    model.compile(keras.optimizers.SGD(1e-3), LOSS, metrics=["accuracy"], budget=ka.BudgetLoss())
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 8, 8, 3)).astype("float32"), rng.integers(0, 3, 12)


def test_training_stops_at_the_step_and_names_the_term(model, data, tmp_path):
    images, labels = data
    images[9, 0, 0, 0] = np.nan  # third batch of four
    saved = SaveLast(tmp_path / "last.keras")
    with pytest.raises(NonFiniteLossError, match="`task_loss` is nan at training step 3"):
        model.fit(images, labels, batch_size=4, shuffle=False, verbose=0, callbacks=[StopOnNonFiniteLoss(), saved])
    assert not (tmp_path / "last.keras").exists()


def test_a_broken_last_update_is_seen_before_the_model_is_saved(model, data, tmp_path):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 6:  # the last of the second epoch
                self.model.head.bias.assign([np.nan] * 3)

    path = tmp_path / "last.keras"
    callbacks = [Break(), StopOnNonFiniteLoss(), SaveLast(path)]
    arguments = {"batch_size": 4, "verbose": 0, "validation_data": data, "callbacks": callbacks}
    if keras.backend.backend() == "jax":  # its weights are written back after an epoch: break them there
        model.fit(*data, epochs=1, **arguments)
        model.head.bias.assign([np.nan] * 3)
        with pytest.raises(NonFiniteLossError, match="task_loss"):
            model.fit(*data, epochs=1, **arguments)
    else:
        with pytest.raises(NonFiniteLossError, match="`val_task_loss` is nan"):
            model.fit(*data, epochs=3, **arguments)
    assert np.isfinite(keras.saving.load_model(path).predict(data[0], verbose=0)["logits"]).all()


def test_best_model_is_the_most_accurate_within_the_budget(model, tmp_path):
    best = SaveBest(tmp_path / "best.keras", macs_share=0.5, first_epoch=1)
    best.set_model(model)
    saved = []
    model.save = lambda path: (saved.append(epoch), path.touch())
    epochs = [(0.9, 0.4), (0.8, 0.9), (0.7, 0.6), (0.5, 0.5), (0.6, 0.45), (0.99, 0.51), (0.55, 0.3)]
    for epoch, (accuracy, macs) in enumerate(epochs):
        best.on_epoch_end(epoch, {"val_accuracy": accuracy, "val_macs_share": macs})
    assert saved == [1, 2, 3, 4]


def test_an_epoch_that_is_reported_is_on_disk(model, data, tmp_path):
    class Report(ProgressBar):
        def on_epoch_end(self, epoch, logs=None):
            steps.append(int(keras.saving.load_model(tmp_path / "last.keras").step))
            rows.append(list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines())))
            super().on_epoch_end(epoch, logs)

    steps, rows = [], []
    saving = [SaveLast(tmp_path / "last.keras"), SaveHistory(tmp_path / "history.csv")]
    callbacks = [*saving, Report("dense", Console(file=io.StringIO()))]
    kept = model.fit(*data, batch_size=4, epochs=3, verbose=0, validation_data=data, callbacks=callbacks)
    assert steps == [3, 6, 9]
    assert [[row["epoch"] for row in each] for each in rows] == [["0"], ["0", "1"], ["0", "1", "2"]]
    assert set(rows[-1][0]) == {"epoch", *kept.history}
    for name, values in kept.history.items():
        assert [float(row[name]) for row in rows[-1]] == [float(value) for value in values]


@pytest.mark.parametrize("how", ["limit", "flush"])
def test_a_full_disk_ends_a_training_with_a_sentence_and_the_earlier_model(how, model, data, tmp_path, monkeypatch):
    class Fill(keras.callbacks.Callback):
        """No file may grow as large as the model any more, or be flushed, once the first epoch has ended."""

        def on_epoch_end(self, epoch, logs=None):
            if how == "limit":
                size = (tmp_path / "last.keras").stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
            else:
                monkeypatch.setattr(os, "fsync", fail)

    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    callbacks = [SaveLast(tmp_path / "last.keras"), SaveHistory(tmp_path / "history.csv"), Fill()]
    try:
        with pytest.raises(ka.InputError) as raised:
            model.fit(*data, batch_size=4, epochs=3, verbose=0, callbacks=callbacks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    reason = "File too large" if how == "limit" else "No space left on device"
    assert str(raised.value) == f"{tmp_path / 'last.keras'} cannot be written. Received: {reason}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "last.keras"]
    assert int(keras.saving.load_model(tmp_path / "last.keras").step) == 3
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2


def test_progress_leaves_one_line_an_epoch(model, data):
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    model.fit(*data, epochs=2, verbose=0, validation_data=data, callbacks=[ProgressBar("adaptive", console)])
    lines = [line for line in stream.getvalue().splitlines() if "loss" in line]
    assert len(lines) == 2
    assert lines[1].startswith("adaptive 2/2  loss ")
    for part in ("accuracy", "MACs", "tokens", "heads", "attention", "MLP", "/"):
        assert part in lines[1]
