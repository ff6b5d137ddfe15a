import io

import keras
import numpy as np
import pytest
from rich.console import Console

import keras_adavit as ka
from keras_adavit.training.callbacks import NonFiniteLossError, ProgressBar, SaveBest, StopOnNonFiniteLoss

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
    saved = keras.callbacks.ModelCheckpoint(tmp_path / "last.keras")
    with pytest.raises(NonFiniteLossError, match="`task_loss` is nan at training step 3"):
        model.fit(images, labels, batch_size=4, shuffle=False, verbose=0, callbacks=[StopOnNonFiniteLoss(), saved])
    assert not (tmp_path / "last.keras").exists()


def test_a_broken_last_update_is_seen_before_the_model_is_saved(model, data, tmp_path):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 6:  # the last of the second epoch
                self.model.head.bias.assign([np.nan] * 3)

    path = tmp_path / "last.keras"
    callbacks = [Break(), StopOnNonFiniteLoss(), keras.callbacks.ModelCheckpoint(path)]
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
    model.save = lambda path: saved.append(epoch)
    epochs = [(0.9, 0.4), (0.8, 0.9), (0.7, 0.6), (0.5, 0.5), (0.6, 0.45), (0.99, 0.51), (0.55, 0.3)]
    for epoch, (accuracy, macs) in enumerate(epochs):
        best.on_epoch_end(epoch, {"val_accuracy": accuracy, "val_macs_share": macs})
    assert saved == [1, 2, 3, 4]


def test_progress_leaves_one_line_an_epoch(model, data):
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    model.fit(*data, epochs=2, verbose=0, validation_data=data, callbacks=[ProgressBar("adaptive", console)])
    lines = [line for line in stream.getvalue().splitlines() if "loss" in line]
    assert len(lines) == 2
    assert lines[1].startswith("adaptive 2/2  loss ")
    for part in ("accuracy", "MACs", "tokens", "heads", "attention", "MLP", "/"):
        assert part in lines[1]
