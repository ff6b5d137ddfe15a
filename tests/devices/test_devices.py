"""Two devices give what one gives of the same batches."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_adavit.devices.base import Devices
from keras_adavit.devices.dispatch import find_devices
from keras_adavit.errors import InputError
from keras_adavit.experiments import DenseTraining, Digits, Recipe
from keras_adavit.experiments.run import check_devices
from keras_adavit.models.saved import load_model
from keras_adavit.weights.transfer import weights_by_path

BACKEND = keras.backend.backend()
SCRIPT = Path(__file__).with_name("two_devices.py")
several = pytest.mark.skipif(BACKEND == "torch", reason="Keras trains on one device on torch")


def history(path):
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@several
@pytest.mark.slow
def test_two_devices_are_as_one_also_after_a_stop(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    rows, others = (history(tmp_path / name / "adaptive" / "history.csv") for name in ("one", "two"))
    assert len(rows) == len(others) == 1
    for row, other in zip(rows, others, strict=True):
        assert {"loss", "macs_budget_loss", "val_head_budget_loss", "val_head_usage"} < row.keys()
        assert not any(name.startswith("val_") and "distillation" in name for name in row)
        assert 0.1 < row["val_macs_share"] < 0.9
        assert other == pytest.approx(row, rel=1e-5, abs=1e-6)
        assert 257 * other["val_accuracy"] == pytest.approx(round(257 * other["val_accuracy"]), abs=1e-3)
    found, expected = (weights_by_path(load_model(tmp_path / n / "adaptive" / "last.keras")) for n in ("two", "one"))
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-5, atol=1e-6, err_msg=path)
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert two["images"] == one["images"] == 256
    assert two["top1"] == one["top1"]


def test_one_device_needs_no_engine():
    devices = find_devices(1)
    assert devices.count == 1
    with devices.scope():
        assert keras.distribution.distribution() is None


@several
def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"^`devices` must be at most \d+, .*\. Received: devices=99$"):
        find_devices(99)


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_has_one():
    assert find_devices("all").count == 1
    with pytest.raises(InputError, match=r"^`devices` must be 1 on torch, .* Received: devices=2$"):
        find_devices(2)


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        (
            Devices(3),
            {"batch_size": 16},
            r"^`batch_size` must be a multiple of the 3 devices\. Received: ",
        ),
        (
            Devices(2, can_accumulate=False),
            {"dense": DenseTraining(accumulate=4)},
            r"^`accumulate` must be 1 on several devices of TensorFlow, .* Received: accumulate=4 on 2 devices$",
        ),
    ],
)
def test_recipes_that_several_devices_cannot_train(devices, options, message):
    with pytest.raises(InputError, match=message):
        check_devices(Recipe(name="tiny", data=Digits(), **options), devices)
