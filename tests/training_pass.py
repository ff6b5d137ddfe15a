"""One training pass with given noise, and what the published code computed in it."""

import json

import keras
import numpy as np
from gradients import gradients
from keras import ops
from published import GATED_DEIT, pair

import keras_adavit as ka
from keras_adavit.gating import sampling

TERMS = {"task": "base", "token_budget": "token", "head_budget": "head", "block_budget": "layer"}


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


def make_model(fixtures, gates, weights):
    """The model of `training_pass.npz` with some gates, and with more published weights, a dict."""
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**GATED_DEIT, gates=gates), num_classes=10)
    for variable, value in pair(model, {**np.load(fixtures / "training_pass_weights.npz"), **weights}):
        variable.assign(value)
    settings = json.loads((fixtures / "budget_loss.json").read_text())[1]["settings"]
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), budget=budget_of(settings))
    return model


def check_pass(model, inputs, expected, monkeypatch):
    """Runs the pass; outputs, loss terms and gradients are the published ones.

    Args:
        model: A model from `make_model`.
        inputs: Arrays `images_nchw`, `labels` and `noise_00` to `noise_09`.
        expected: A dict of arrays under the published names, gradients as `grad/NAME`.
        monkeypatch: Of pytest.

    Returns:
        Paths of the variables whose gradients were compared.
    """
    noise = iter([inputs[f"noise_{index:02d}"] for index in range(10)])
    monkeypatch.setattr(sampling, "gumbel_noise", lambda shape, seed: ops.convert_to_tensor(next(noise)))
    images = ops.convert_to_tensor(inputs["images_nchw"].transpose(0, 2, 3, 1))

    loss, outputs, gradient = gradients(model, images, ops.convert_to_tensor(inputs["labels"]))

    np.testing.assert_array_equal(outputs["token_keep"], expected["token_select"])
    np.testing.assert_array_equal(outputs["head_keep"][:, 1:], expected["head_select"])
    np.testing.assert_array_equal(outputs["block_keep"][:, 1:], expected["layer_select"])
    np.testing.assert_allclose(outputs["logits"], expected["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(loss, expected["total"], rtol=1e-4)
    logs = model.get_metrics_result()
    for name, published in TERMS.items():
        np.testing.assert_allclose(float(logs[f"{name}_loss"]), expected[f"{published}_loss"], rtol=1e-4)

    pairs = pair(model, {name.removeprefix("grad/"): array for name, array in expected.items()})
    for variable, array in pairs:
        error = np.linalg.norm(gradient[variable.path] - array) / max(np.linalg.norm(array), 1e-12)
        assert error < 1e-4, f"{variable.path}: relative error {error:.2e}"
    return {variable.path for variable, _ in pairs}
