"""`PolicyTensorBoard`: what it writes, as a TensorBoard server gives it back."""

import json
import re
import subprocess
import sys
import time
import urllib.request

import keras
import numpy as np
import pytest
from gated import make_images, make_model
from keras import ops
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

import keras_adavit as ka
from keras_adavit.training import schedules
from keras_adavit.training.metrics import UsageByBlock
from keras_adavit.training.optimizers import ScaledAdamW, gate_factors
from keras_adavit.training.tensorboard import tags

DEPTH, COUNT, BATCH = 3, 24, 4


@pytest.fixture
def model():
    model = make_model(depth=DEPTH)
    optimizer = ScaledAdamW(schedules.linear(1e-3, 0.0, 12), factors=gate_factors(5.0, {}))
    budget = ka.BudgetLoss(macs_target=schedules.linear(1.0, 0.5, 12), token_target=0.4)
    temperature = schedules.linear(5.0, 1.0, 12)
    model.compile(optimizer, ka.CrossEntropy(), metrics=["accuracy"], budget=budget, temperature=temperature)
    return model


@pytest.fixture
def data():
    return make_images(COUNT), np.arange(COUNT) % 5


def fit(model, data, board, epochs=2, callbacks=(), **kwargs):
    callbacks = [*callbacks, board]
    kwargs = {"batch_size": BATCH, "verbose": 0, "validation_data": data, "epochs": epochs, **kwargs}
    return model.fit(*data, callbacks=callbacks, **kwargs).history


def read(folder):
    """The scalars in a folder's event files: a dict from a tag to its (step, value) pairs by step."""
    found = {}
    for path in folder.glob("events.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = tensor_util.make_ndarray(value.tensor).item()
                    found.setdefault(value.tag, []).append((event.step, number))
    return {tag: sorted(points) for tag, points in found.items()}


def test_usage_by_block(model):
    policies = [{name: ops.convert_to_numpy(v) for name, v in model(make_images(n)).items()} for n in (3, 5)]
    metric = UsageByBlock(DEPTH)
    for policy in policies:
        metric.update_state(policy)
    tokens, heads, sublayers = (
        np.concatenate([p[name] for p in policies]) for name in ("token_keep", "head_keep", "block_keep")
    )
    active = sublayers.max(axis=-1)
    each = heads.mean(axis=-1) * active
    expected = [
        tokens.mean(axis=(0, 2)),
        each.sum(axis=0) / np.maximum(active.sum(axis=0), 1),
        *sublayers.mean(axis=0).T,
    ]
    np.testing.assert_allclose(ops.convert_to_numpy(metric.result()), expected, rtol=1e-5)


def test_steps_are_means_since_the_last_point(model, data, tmp_path):
    class Remember(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kept.append(dict(logs))

    kept = []
    history = fit(model, data, ka.PolicyTensorBoard(tmp_path, update_freq=4), callbacks=[Remember()])
    found = read(tmp_path / "steps")
    assert [step for step, _ in found["loss/total"]] == [4, 8, 12]
    # Steps 7 and 8 begin the second epoch; 9 to 12 end it.
    second = [logs["loss"] for logs in kept[6:]]
    expected = [kept[3]["loss"], second[1], (6 * second[5] - 2 * second[1]) / 4]
    np.testing.assert_allclose([value for _, value in found["loss/total"]], expected, rtol=1e-4)
    for name, run in (("", "train"), ("val_", "validation")):
        own = read(tmp_path / run)
        assert [step for step, _ in own["macs/share"]] == [6, 12]
        np.testing.assert_allclose([v for _, v in own["macs/share"]], history[f"{name}macs_share"], rtol=1e-5)
        # Usage by block, of all blocks, means what usage means: here all blocks but the first are gated.
        blocks = np.array([[v for _, v in own[f"usage_attention/block_{b:02}"]] for b in range(DEPTH)])
        gated = blocks[model.backbone.gates.first_gated_block :].mean(axis=0)
        np.testing.assert_allclose(gated, history[f"{name}attention_usage"], rtol=1e-4)
    rates = dict(found["learning_rate/backbone"])
    assert rates[8] == pytest.approx(1e-3 * 4 / 12, rel=1e-4)
    assert dict(found["learning_rate/gates"])[8] == pytest.approx(5 * rates[8])
    assert dict(found["temperature"])[12] == pytest.approx(1.0)
    assert dict(found["macs/target"])[8] == pytest.approx(1 - 0.5 * 8 / 12)
    assert dict(found["usage/tokens_target"])[8] == pytest.approx(0.4)


def test_training_goes_on_counting(model, data, tmp_path):
    fit(model, data, ka.PolicyTensorBoard(tmp_path), epochs=1)
    fit(model, data, ka.PolicyTensorBoard(tmp_path, seconds=1000.0), epochs=2, initial_epoch=1)
    assert [step for step, _ in read(tmp_path / "validation")["metrics/accuracy"]] == [6, 12]
    results = read(tmp_path)
    assert [step for step, _ in results["final/accuracy"]] == [6, 12]
    before, after = (value for _, value in results["final/seconds"])
    assert before < 1000 < after


def test_the_training_is_the_same_with_it(data, tmp_path):
    found = []
    for callbacks in ([], [ka.PolicyTensorBoard(tmp_path, data[0][:4], update_freq=1, pictures=1)]):
        keras.utils.set_random_seed(1)
        model = make_model(depth=DEPTH)
        model.compile(keras.optimizers.SGD(0.1), ka.CrossEntropy(), budget=ka.BudgetLoss())
        model.fit(*data, batch_size=BATCH, epochs=2, verbose=0, callbacks=callbacks)
        found.append([ops.convert_to_numpy(weight) for weight in model.weights])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_gates(data, tmp_path):
    dense = ka.AdaViTClassifier(ka.AdaViTBackbone(image_size=32, patch_size=8, width=24, depth=2, num_heads=3), 5)
    dense.compile("sgd", ka.CrossEntropy(), metrics=["accuracy"])
    fit(dense, data, ka.PolicyTensorBoard(tmp_path, data[0][:2]), epochs=1)
    found = read(tmp_path / "train")
    assert {"loss/total", "metrics/accuracy", "macs/share", "learning_rate/backbone"} <= found.keys()
    assert not any("usage" in tag or "gates" in tag for tag in found)


def test_tags():
    logs = {"loss": 1, "task_loss": 2, "macs_budget_loss": 3, "token_usage": 4, "mlp_usage": 5, "macs": 6, "f1": 7}
    named = ["loss/total", "loss/task", "loss/macs_budget", "usage/tokens", "usage/mlp", "macs/mean", "metrics/f1"]
    assert tags(logs) == dict(zip(named, logs.values(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_dir": 3}, "`log_dir` must be the name of a folder. Received: log_dir=3"),
        ({"update_freq": 0}, "`update_freq` must be an integer from 1 on. Received: update_freq=0"),
        ({"pictures": 1.5}, "`pictures` must be an integer from 0 on"),
        ({"picture_freq": True}, "`picture_freq` must be an integer from 1 on"),
        ({"hparams": {"rates": [1]}}, "`hparams` must be a dict from names to bools, numbers and strings, or None"),
    ],
)
def test_wrong_arguments(options, message, tmp_path):
    with pytest.raises(ka.InputError, match=re.escape(message)):
        ka.PolicyTensorBoard(**{"log_dir": tmp_path, **options})
    assert not list(tmp_path.iterdir())


def test_wrong_models_and_places(model, data, tmp_path):
    other = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(ka.InputError, match=r"needs an `AdaViTClassifier`. Received: Sequential"):
        ka.PolicyTensorBoard(tmp_path).set_model(other)
    with pytest.raises(ka.InputError, match=r"`validation_images` must be images \(32, 32, 3\)"):
        fit(model, data, ka.PolicyTensorBoard(tmp_path, np.zeros((2, 16, 16, 3))))
    (tmp_path / "file").touch()
    with pytest.raises(ka.InputError, match="cannot be written"):
        fit(model, data, ka.PolicyTensorBoard(tmp_path / "file" / "logs"))


class Server:
    """A TensorBoard server on a folder."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.search(r"at (http://\S+)", line)
            if found:
                self.url = found[1]
                return
        raise AssertionError("TensorBoard did not start")

    def ask(self, path, **data):
        body = json.dumps(data).encode() if data else None
        request = urllib.request.Request(f"{self.url}data/plugin/{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            content = answer.read()
            return json.loads(content) if answer.headers.get_content_type() == "application/json" else content

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()


@pytest.mark.slow
def test_a_server_returns_every_tag(data, model, tmp_path):
    for share in (0.5, 0.7):
        budget = ka.BudgetLoss(macs_target=share, token_target=0.5)
        model.compile(keras.optimizers.SGD(1e-3), ka.CrossEntropy(), metrics=["accuracy"], budget=budget)
        board = ka.PolicyTensorBoard(tmp_path / f"{share}", data[0][:8], 2, pictures=2, hparams={"seed": 7})
        fit(model, data, board)
    names = ["loss/total", "loss/task", "loss/token_budget", "loss/macs_budget", "metrics/accuracy"]
    names += ["macs/mean", "macs/share", "macs/target", "usage/tokens_target", "temperature"]
    names += ["learning_rate/backbone", "learning_rate/gates"]
    for usage in ("tokens", "heads", "attention", "mlp"):
        names += [f"usage/{usage}", *(f"usage_{usage}/block_{block:02}" for block in range(DEPTH))]
    pictures = ["usage/block_and_head", "usage/block_and_patch", "kept_patches/image_0", "kept_patches/image_1"]
    runs = [f"0.5/{run}" for run in ("steps", "train", "validation")]
    server = Server(tmp_path)
    try:
        deadline = time.monotonic() + 60
        while "kept_patches/image_1" not in server.ask("images/tags").get("0.7/validation", ()):
            assert time.monotonic() < deadline, "TensorBoard did not read the folder"
            time.sleep(0.5)
        scalars = server.ask("scalars/tags")
        for run in runs:
            assert set(names) <= set(scalars[run]), run
        assert {"final/accuracy", "final/macs_share", "final/seconds"} <= set(scalars["0.5"])
        points = server.ask("scalars/scalars?run=0.5/steps&tag=usage_tokens/block_01")
        assert [step for _, step, _ in points] == [2, 4, 6, 8, 10, 12]
        assert all(0 <= value <= 1 for _, _, value in points)
        assert set(server.ask("images/tags")["0.5/validation"]) == set(pictures)
        shown = server.ask("images/images?run=0.5/validation&tag=kept_patches/image_0&sample=0")
        assert [each["step"] for each in shown] == [6, 12]
        assert server.ask(f"images/individualImage?{shown[0]['query']}").startswith(b"\x89PNG")
        assert "macs/share_of_images" in server.ask("histograms/tags")["0.5/validation"]
        layout = server.ask("custom_scalars/layout")
        assert [each["closed"] for each in layout["category"]] == [False, True, True]
        drawn = server.ask("custom_scalars/scalars?run=0.5/steps&tag=usage_tokens%2F.*")
        assert len(drawn["tag_to_events"]) == DEPTH
        groups = server.ask(
            "hparams/session_groups",
            experimentName="",
            allowedStatuses=["STATUS_SUCCESS"],
            colParams=[],
            startIndex=0,
            sliceSize=10,
        )["sessionGroups"]
        assert {group["hparams"]["macs_target"] for group in groups} == {0.5, 0.7}
        for group in groups:
            assert group["hparams"]["seed"] == 7
            results = {each["name"]["tag"]: each["value"] for each in group["metricValues"]}
            assert results.keys() == {"final/accuracy", "final/macs_share", "final/seconds"}
    finally:
        server.stop()
