"""Two devices give what one gives of the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_adavit.devices.dispatch import find_devices
from keras_adavit.errors import InputError

BACKEND = keras.backend.backend()
SCRIPT = Path(__file__).with_name("two_devices.py")
several = pytest.mark.skipif(BACKEND == "torch", reason="Keras trains on one device on torch")


def start(*arguments):
    """Runs the script in a process of its own, which has two CPU devices."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]


@several
@pytest.mark.slow
def test_two_devices_are_as_one(tmp_path):
    start("model", tmp_path / "found.npz")
    found = dict(np.load(tmp_path / "found.npz"))
    one, two = ({name[2:]: value for name, value in found.items() if name[0] == count} for count in "12")
    assert one.keys() == two.keys()
    assert {"loss", "macs_budget_loss", "val_head_budget_loss", "val_accuracy", "val_token_usage"} < one.keys()
    assert not any("val" in name and "distillation" in name for name in one)
    assert np.all((one["val_macs_share"] > 0.1) & (one["val_macs_share"] < 0.9))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    right = 33 * two["val_accuracy"]
    np.testing.assert_allclose(right, np.round(right), atol=1e-4)


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
