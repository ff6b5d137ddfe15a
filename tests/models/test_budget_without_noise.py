"""A budget of the decisions without noise: what training counts is what evaluation finds."""

import keras
import numpy as np
import pytest
from gradients import gradients
from keras import ops

import keras_adavit as ka

SIZES = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
GATES = ka.GateConfig(initial_bias=0.0, temperature=1.0)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 16, 16, 3)).astype("float32"), rng.integers(0, 5, 16)


def make_model(gates=GATES, **budget):
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES, gates=gates), num_classes=5)
    rng = np.random.default_rng(1)
    for block in model.backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.kernel.assign(rng.normal(size=gate.kernel.shape))
    model.compile(keras.optimizers.SGD(0.0), LOSS, budget=ka.BudgetLoss(**budget))
    return model


@pytest.mark.parametrize("gates", [GATES, ka.GateConfig(heads=None, first_token_gated_block=1, initial_bias=0.0)])
def test_the_policy_is_that_of_evaluation(gates, data):
    model = make_model(gates)
    outputs = model(data[0], details=True)
    policy = model.backbone.policy_without_noise(outputs)
    for key, keep in policy.items():
        np.testing.assert_array_equal(ops.convert_to_numpy(keep), ops.convert_to_numpy(outputs[key]))
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.macs(policy)), ops.convert_to_numpy(outputs["macs"]), rtol=1e-6
    )


def test_training_counts_what_evaluation_would_decide(data):
    """The noise still disturbs what later gates read, so that only the first block is exactly evaluation's."""
    gates = ka.GateConfig(heads=None, blocks=False, initial_bias=0.0)
    model = make_model(gates, token_target=0.01, noise_free=True)
    for block in model.backbone.blocks[1:]:  # decide alike, whatever they read
        block.token_gate.kernel.assign(0 * block.token_gate.kernel)
        block.token_gate.bias.assign([9.0])
    keep = ops.convert_to_numpy(model(data[0])["token_keep"])
    terms = [model.train_on_batch(*data, return_dict=True)["token_budget_loss"] for _ in range(2)]
    np.testing.assert_allclose(terms, np.square(keep.mean() - 0.01), rtol=1e-5)
    noisy = make_model(gates, token_target=0.01)
    assert noisy.train_on_batch(*data, return_dict=True)["token_budget_loss"] != pytest.approx(terms[0], rel=1e-3)


def test_gates_learn_from_it(data):
    found = []
    for weight in (0.0, 10.0):  # the task's gradient alone, and with the budget's
        keras.utils.set_random_seed(0)
        model = make_model(macs_target=0.3, macs_weight=weight, noise_free=True)
        found.append({path.partition("/")[2]: each for path, each in gradients(model, *data)[2].items()})
    for path, gradient in found[1].items():
        if "_gate/" in path:
            assert np.abs(gradient - found[0][path]).max() > 1e-5, path


def test_a_training_policy_counts_itself(data):
    model = make_model(token_target=0.5, noise_free=True)
    model.compile(
        keras.optimizers.SGD(0.0),
        LOSS,
        budget=model.budget,
        training_policy=ka.RandomPolicy(tokens=0.0),
    )
    found = model.train_on_batch(*data, return_dict=True)
    assert found["token_budget_loss"] == pytest.approx((1 / 17 - 0.5) ** 2, rel=1e-5)


def test_it_is_saved(data, tmp_path):
    model = make_model(macs_target=0.5, noise_free=True)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").budget.noise_free
