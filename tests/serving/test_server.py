"""A real server: every good photo gets the answer of `evaluate --images`, every bad one its error."""

import os
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from gated import make_model
from served import ask, served, start

from keras_adavit.commands.main import main
from keras_adavit.evaluation.predict import read_photos

CLIENTS, REQUESTS, BUDGETS = 16, 200, (0.3, 0.5)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_backend")]


def assert_right(found, expected):
    assert found["labels"] == list(expected.labels)
    assert found["classes"] == list(expected.classes)
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-3)
    assert found["macs"] == pytest.approx(expected.macs, rel=1e-5)
    assert found["macs_share"] == pytest.approx(expected.macs_share, rel=1e-5)


def load(address, good, bad, count):
    """Answers to `count` requests of many clients at once, every tenth of a bad file: pairs of a file and an answer."""
    files = [bad[n // 10 % len(bad)] if n % 10 == 9 else good[n % len(good)] for n in range(count)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(zip(files, clients.map(lambda file: ask(address, file), files), strict=True))


def assert_all_right(answers, expected):
    for file, (status, told) in answers:
        if file in expected:
            assert status == 200
            assert_right(told["predictions"][0], expected[file])
        else:
            assert status in (400, 413, 415, 422)
            assert set(told) == {"error", "predictions"}
            assert re.fullmatch(r"[^\n]+ Received: [^\n]+", told["error"])


def test_many_clients_at_once(address, files, expected):
    before = read_metrics(address)
    answers = load(address, *files, REQUESTS)
    assert_all_right(answers, expected)
    assert {told["error"] for _, (status, told) in answers if status != 200} == {
        "The file must be a photo. Received: an empty file",
        "The file must be a JPEG or PNG photo. Received: something else",
        "The photo must be a whole file. Received: one that cannot be decoded",
        "The photo must have at most 50,000,000 pixels. Received: many more",
    }
    told = {name: value - before[name] for name, value in read_metrics(address).items()}
    assert told["photos_total"] == told["macs_share_count"] == told["batch_size_sum"] == 180
    assert told["request_seconds_count"] == 200
    assert told["batch_size_count"] < 180  # some shared a batch


def read_metrics(address):
    """Some of the figures that `/metrics` tells."""
    text = requests.get(f"{address}/metrics", timeout=60).text
    return {name: float(re.search(rf"^adavit_{name} (\S+)", text, re.M)[1]) for name in FIGURES}


FIGURES = ("photos_total", "macs_share_count", "batch_size_sum", "batch_size_count", "request_seconds_count")


def test_several_files_in_a_request(address, folder, expected, model):
    good = sorted(expected)[:3]
    status, told = ask(address, good[0], folder / "bad" / "text.jpg", *good[1:], policy=1)
    assert status == 200
    first, wrong, *others = told["predictions"]
    assert wrong == {"file": "text.jpg", "error": "The file must be a JPEG or PNG photo. Received: something else"}
    outputs = model.predict_on_batch(next(read_photos(list(map(str, good)), model)))
    for row, (file, found) in enumerate(zip(good, [first, *others], strict=True)):
        assert found["file"] == file.name
        assert_right(found, expected[file])
        policy = found["policy"]
        used = outputs["token_keep"][row, :, 1:] * (outputs["block_keep"][row].max(axis=1, keepdims=True))
        np.testing.assert_array_equal(policy["patches"], used)
        np.testing.assert_array_equal(policy["heads"], outputs["head_keep"][row])
        np.testing.assert_array_equal(np.stack([policy["attention"], policy["mlp"]], 1), outputs["block_keep"][row])
        assert (policy["grid"], policy["crop_fraction"]) == (4, 0.875)


def test_budgets(address, files, expected):
    good, _ = files
    shares = {}
    for macs in BUDGETS:
        _, told = ask(address, *good, macs=macs)
        shares[macs] = np.mean([found["macs_share"] for found in told["predictions"]])
    assert all(share == pytest.approx(macs, abs=0.05) for macs, share in shares.items())
    assert_right(ask(address, good[0])[1]["predictions"][0], expected[good[0]])  # the model's own, again
    assert requests.get(f"{address}/health", timeout=60).json() == {"status": "ok", "budgets": list(BUDGETS)}
    for macs in ("0.4", "much", "nan"):
        status, told = ask(address, good[0], macs=macs)
        assert (status, told["error"]) == (400, f"`macs` must be one of 0.3, 0.5. Received: macs={macs}")


def test_other_requests_get_a_sentence(address):
    def said(method, path, **options):
        reply = requests.request(method, f"{address}{path}", timeout=60, **options)
        return reply.status_code, reply.json()["error"]

    form = "The request must be a form (multipart/form-data) of JPEG or PNG files. Received: "
    assert said("POST", "/predict") == (400, f"{form}no file")
    assert said("POST", "/predict", json={"photo": "a"}) == (400, f"{form}no file")
    assert said("POST", "/predict", data={"photo": "a"}) == (400, f"{form}a field that is no file")
    assert said("POST", "/predict?policy=yes") == (400, "`policy` must be 0 or 1. Received: policy=yes")
    broken = {"headers": {"Content-Type": "multipart/form-data; boundary=x"}, "data": b"--x\r\nnothing"}
    assert said("POST", "/predict", **broken)[0] == 400
    many = [("photo", ("a.jpg", b"x"))] * 129
    assert said("POST", "/predict", files=many) == (400, "Too many files. Maximum number of files is 128.")
    large = {"photo": ("a.jpg", bytes(33_000_000))}
    too_large = "The request must have at most 32,000,000 bytes. Received: more"
    assert said("POST", "/predict", files=large) == (413, too_large)
    assert said("POST", "/predict", data=iter([bytes(10**6)] * 33))[0] in (400, 413)
    assert said("GET", "/predict") == (405, "Method Not Allowed")
    assert said("GET", "/none") == (404, "Not Found")


def test_an_exported_file_is_served_and_after_a_kill_again(onnx_file, files, expected):
    process, address = start(onnx_file, "--wait", "0")
    assert_all_right(load(address, *files, 60), expected)
    good = files[0][0]
    assert ask(address, good, macs=0.3)[1] == {
        "error": "`macs` must be left out: the server was started without budgets. Received: macs=0.3"
    }
    with ThreadPoolExecutor(4) as clients:
        threading.Timer(0.3, lambda: os.kill(process.pid, signal.SIGKILL)).start()
        replies = [clients.submit(ask, address, good) for _ in range(400)]
    process.communicate()
    assert any(reply.exception() for reply in replies)
    with served(onnx_file, "--port", address.rpartition(":")[2]) as (process, address):
        assert_right(ask(address, good)[1]["predictions"][0], expected[good])
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.keras"], "The model must be an existing file. Received: "),
        (["none.onnx"], "The model must be an existing file. Received: "),
        (["text.onnx"], "must be an ONNX file that `ka.export(..., preprocessing=True)` wrote. Received: "),
        (["model.keras", "--macs", "0.3"], "`--macs` and `--data` must be given together. Received: one of them"),
        (["text.onnx", "--macs", "0.3", "--data", "."], "`--macs` needs a .keras model"),
        (["model.keras", "--host", "256.1.1.1"], "must be an address of this machine and a free port. Received: 256"),
    ],
)
def test_wrong_arguments(arguments, message, folder, monkeypatch, capsys):
    if "text.onnx" in arguments:
        pytest.importorskip("onnx", reason="ONNX needs the extra `export`")
    (folder / "text.onnx").write_text("no model")
    monkeypatch.chdir(folder)
    assert main(["serve", *arguments, "--port", "0"]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(folder / "model.keras"), "--port", str(taken.getsockname()[1])]) == 2
    assert "(Address already in use)" in capsys.readouterr().err


def test_a_model_that_knows_no_preprocessing(tmp_path, capsys):
    make_model().save(tmp_path / "model.keras")
    assert main(["serve", str(tmp_path / "model.keras"), "--port", "0"]) == 2
    assert "must know the `preprocessing`" in capsys.readouterr().err
