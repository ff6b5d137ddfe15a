"""Two devices, of one host or of two, give what one gives of the same batches."""

import contextlib
import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_adavit.devices.base import ADDRESSES, HOST, Devices
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


def start(folder, **environment):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
    )


def check_end(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@several
@pytest.mark.slow
def test_two_devices_and_two_hosts_are_as_one_also_after_a_stop(tmp_path):
    check_end(start(tmp_path))
    check_same(tmp_path, "two")
    addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    hosts = [start(tmp_path, **{ADDRESSES: addresses, HOST: str(index)}) for index in range(2)]
    try:
        for host in hosts:
            check_end(host)
    finally:
        for host in hosts:
            host.kill()
    check_same(tmp_path, "hosts")
    assert {path.name for path in tmp_path.iterdir()} == {"dense.keras", "one", "two", "hosts"}


def check_same(folder, name):
    """The run of the name is as that of one device."""
    rows, others = (history(folder / run / "adaptive" / "history.csv") for run in ("one", name))
    assert len(rows) == len(others) == 1
    for row, other in zip(rows, others, strict=True):
        assert {"loss", "macs_budget_loss", "val_head_budget_loss", "val_head_usage"} < row.keys()
        assert not any(key.startswith("val_") and "distillation" in key for key in row)
        assert 0.1 < row["val_macs_share"] < 0.9
        assert other == pytest.approx(row, rel=1e-5, abs=1e-6)
        assert 257 * other["val_accuracy"] == pytest.approx(round(257 * other["val_accuracy"]), abs=1e-3)
    found, expected = (weights_by_path(load_model(folder / run / "adaptive" / "last.keras")) for run in (name, "one"))
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-5, atol=1e-6, err_msg=path)
    one, other = (json.loads((folder / run / "results.json").read_text()) for run in ("one", name))
    assert other["images"] == one["images"] == 256
    assert other["top1"] == one["top1"]


def test_one_device_needs_no_engine():
    devices = find_devices(1)
    assert devices.count == 1
    with devices.scope():
        assert keras.distribution.distribution() is None


@several
def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"^`devices` must be at most \d+, .*\. Received: devices=99$"):
        find_devices(99)


@pytest.mark.skipif(BACKEND != "torch", reason="what torch alone says: it has one device")
def test_torch_has_one():
    assert find_devices("all").count == 1
    with pytest.raises(InputError, match=r"^`devices` must be 1 on torch, .* Received: devices=2$"):
        find_devices(2)


@pytest.mark.skipif(BACKEND != "torch", reason="what torch alone says: it has one device")
def test_torch_has_one_host(monkeypatch):
    monkeypatch.setenv(ADDRESSES, "10.0.0.1:1234,10.0.0.2:1234")
    monkeypatch.setenv(HOST, "0")
    with pytest.raises(InputError, match=rf"^`{ADDRESSES}` must be empty on torch, .* Received: several hosts$"):
        find_devices(1)


@pytest.mark.parametrize("host", ["", "2", "-1", "one"])
def test_a_host_without_its_number(monkeypatch, host):
    monkeypatch.setenv(ADDRESSES, "10.0.0.1:1234,10.0.0.2:1234")
    monkeypatch.setenv(HOST, host)
    with pytest.raises(InputError, match=rf"^`{HOST}` must be the number .* from 0 to 1\. Received: {HOST}='{host}'$"):
        find_devices(1)


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        (
            Devices(3),
            {"batch_size": 16},
            r"^`batch_size` must be a multiple of the 3 devices\. Received: ",
        ),
        (
            Devices(2, by_itself=True),
            {"dense": DenseTraining(accumulate=4)},
            r"^`accumulate` must be 1 on several devices of TensorFlow, .* Received: accumulate=4 on 2 devices$",
        ),
        (
            Devices(2, by_itself=True),
            {"precision": "mixed_float16"},
            r"^`precision` must be float32 or mixed_bfloat16 on several .*: precision='mixed_float16' on 2 devices$",
        ),
    ],
)
def test_recipes_that_several_devices_cannot_train(devices, options, message):
    with pytest.raises(InputError, match=message):
        check_devices(Recipe(name="tiny", data=Digits(), **options), devices)
