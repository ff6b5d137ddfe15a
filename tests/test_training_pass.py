"""One training pass with given noise: outputs, loss terms and every gradient are those of the published code."""

import json

import keras
import numpy as np
import pytest
from gradients import gradients
from keras import ops
from published import pair

import keras_adavit as ka
from keras_adavit.gating import sampling


@pytest.fixture
def golden(fixtures):
    return np.load(fixtures / "training_pass.npz")


@pytest.fixture
def model(fixtures):
    backbone = ka.AdaViTBackbone(
        image_size=64, patch_size=16, width=96, depth=4, num_heads=3, positions="sinusoid", gates=ka.GateConfig()
    )
    model = ka.AdaViTClassifier(backbone, num_classes=10)
    for variable, value in pair(model, np.load(fixtures / "training_pass_weights.npz")):
        variable.assign(value)
    settings = json.loads((fixtures / "budget_loss.json").read_text())[1]["settings"]
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), budget=budget_of(settings))
    return model


def budget_of(settings):
    """A `BudgetLoss` with the published settings, where sub-layer gates are called layers."""
    names = {
        "target_ratio": "target",
        "loss_ratio": "weight",
        "diverse_ratio": "diversity",
        "entropy_weight": "entropy",
        "minimal_weight": "minimum_weight",
        "minimal": "minimum",
    }
    arguments = {}
    for name, value in settings.items():
        kind, _, setting = name.partition("_")
        arguments[f"{'block' if kind == 'layer' else kind}_{names[setting]}"] = value
    return ka.BudgetLoss(**arguments)


def test_training_pass_reproduces_every_gradient(model, golden, monkeypatch):
    noise = iter([golden[f"noise_{index:02d}"] for index in range(10)])
    monkeypatch.setattr(sampling, "gumbel_noise", lambda shape, seed: ops.convert_to_tensor(next(noise)))
    images = ops.convert_to_tensor(golden["images_nchw"].transpose(0, 2, 3, 1))

    loss, outputs, gradient = gradients(model, images, ops.convert_to_tensor(golden["labels"]))

    np.testing.assert_array_equal(outputs["token_keep"], golden["token_select"])
    np.testing.assert_array_equal(outputs["head_keep"][:, 1:], golden["head_select"])
    np.testing.assert_array_equal(outputs["block_keep"][:, 1:], golden["layer_select"])
    np.testing.assert_allclose(outputs["logits"], golden["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(loss, golden["total"], rtol=1e-4)
    logs = model.get_metrics_result()
    for name, published in (
        ("task", "base"),
        ("token_budget", "token"),
        ("head_budget", "head"),
        ("block_budget", "layer"),
    ):
        np.testing.assert_allclose(float(logs[f"{name}_loss"]), golden[f"{published}_loss"], rtol=1e-4)

    pairs = pair(model, {name.removeprefix("grad/"): golden[name] for name in golden.files})
    trainable = {variable.path for variable in model.trainable_variables}
    assert {variable.path for variable, _ in pairs} == trainable
    for variable, expected in pairs:
        error = np.linalg.norm(gradient[variable.path] - expected) / max(np.linalg.norm(expected), 1e-12)
        assert error < 1e-4, f"{variable.path}: relative error {error:.2e}"


@pytest.mark.parametrize("case", [0, 1])
def test_budget_terms_are_the_published_ones(case, fixtures):
    expected = json.loads((fixtures / "budget_loss.json").read_text())[case]
    arrays = np.load(fixtures / "budget_loss.npz")
    names = {
        "token_keep": "token_select",
        "head_keep": "head_select",
        "block_keep": "layer_select",
        "head_logits": "head_select_logits",
        "block_logits": "layer_select_logits",
    }
    outputs = {name: ops.convert_to_tensor(arrays[published]) for name, published in names.items()}
    budget = budget_of(expected["settings"])
    # These arrays hold gated blocks alone.
    terms = budget(outputs, ka.GateConfig(first_gated_block=0), dense_macs=1.0)
    task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(arrays["labels"], arrays["logits"])

    np.testing.assert_allclose(task, expected["base_loss"], rtol=1e-6)
    np.testing.assert_allclose(terms["head"], expected["head_loss"], rtol=1e-5)
    np.testing.assert_allclose(terms["block"], expected["layer_loss"], rtol=1e-5)
    np.testing.assert_allclose(terms["token"], expected["token_loss"], rtol=1e-5)
    np.testing.assert_allclose(task + budget.total(terms), expected["total"], rtol=1e-5)
