"""One training pass with given noise: outputs, loss terms and every gradient are those of the published code."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from training_pass import budget_of, check_pass, make_model

import keras_adavit as ka

# What each option of `training_options.npz` is here.
OPTIONS = {
    "hidden_heads": {"mlp_heads": "hidden"},
    "post_softmax": {"mask_after_softmax": True},
    "attention_gradient": {"attention_gradient": True},
    "post_softmax_attention_gradient": {"mask_after_softmax": True, "attention_gradient": True},
    "mlp_detached": {"mlp_token_gradient": False},
    "normalized_policy": {"normalize_policy_input": True},
}


def arrays_below(path, prefix):
    """The arrays of a file whose names start with a prefix, without it: a dict."""
    with np.load(path) as arrays:
        return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}


def test_training_pass_reproduces_every_gradient(fixtures, monkeypatch):
    golden = dict(np.load(fixtures / "training_pass.npz"))
    model = make_model(fixtures, ka.GateConfig(), {})
    compared = check_pass(model, golden, golden, monkeypatch)
    assert compared == {variable.path for variable in model.trainable_variables}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_reproduce_the_gradients(option, fixtures, monkeypatch):
    expected = arrays_below(fixtures / "training_options.npz", f"{option}/")
    weights = {name.removeprefix("weight/"): array for name, array in expected.items() if name.startswith("weight/")}
    model = make_model(fixtures, ka.GateConfig(**OPTIONS[option]), weights)
    compared = check_pass(model, np.load(fixtures / "training_pass.npz"), expected, monkeypatch)
    # The file leaves the gradients of two blocks out.
    compared |= {variable.path for block in (0, 3) for variable in model.backbone.blocks[block].trainable_variables}
    assert compared == {variable.path for variable in model.trainable_variables}


def test_options_differ(fixtures):
    """Each of them moves a gradient by more than the tolerance, or the test above could not tell them apart."""
    name = "grad/blocks.1.attn.token_select.mlp_head.weight"
    published = [np.load(fixtures / "training_pass.npz")[name]]
    published += [arrays_below(fixtures / "training_options.npz", f"{option}/")[name] for option in OPTIONS]
    for index, one in enumerate(published):
        for other in published[:index]:
            assert np.linalg.norm(one - other) > 5e-4 * np.linalg.norm(one)


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
