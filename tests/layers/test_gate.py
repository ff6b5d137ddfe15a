import keras
import numpy as np
import pytest
from harness import check_layer
from keras import ops

from keras_adavit.layers.gate import Gate


def test_gate_does_what_every_layer_must():
    inputs = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    keep, logits = check_layer(Gate(3, threshold=0.6), inputs, (2, 5, 3), weights=2)
    np.testing.assert_array_equal(keep, (1 / (1 + np.exp(-logits)) > 0.6).astype("float32"))


def test_new_gate_keeps_nearly_everything():
    gate = Gate(1, threshold=0.6)
    inputs = keras.random.normal((64, 8))
    assert ops.convert_to_numpy(gate(inputs)[0]).mean() == 1.0
    assert ops.convert_to_numpy(gate(inputs, training=True)[0]).mean() > 0.6


@pytest.mark.parametrize(("threshold", "share"), [(0.6, 0.116), (0.5, 0.5)])
def test_share_kept_in_the_first_noisy_step_of_a_gate_without_bias(threshold, share):
    # σ(noise/5) > threshold, and the noise is logistic: 1 − σ(5·logit(threshold)).
    gate = Gate(4, temperature=5.0, threshold=threshold, initial_bias=0.0)
    keep = ops.convert_to_numpy(gate(0.01 * keras.random.normal((5000, 8)), training=True)[0])
    assert keep.mean() == pytest.approx(share, abs=0.015)


def test_noise_in_training_alone():
    gate = Gate(16)
    inputs = keras.random.normal((32, 8))
    gate.build((None, 8))
    gate.bias.assign(np.zeros(16))
    quiet = [ops.convert_to_numpy(gate(inputs)[0]) for _ in range(2)]
    noisy = [ops.convert_to_numpy(gate(inputs, training=True)[0]) for _ in range(2)]
    np.testing.assert_array_equal(*quiet)
    assert (noisy[0] != noisy[1]).any()


@pytest.mark.parametrize("temperature", [0.1, 50.0])
def test_given_temperature_replaces_the_gates_own(temperature):
    # A threshold of 0.6 at a high temperature asks for noise that hardly ever comes.
    gate = Gate(1, temperature=1.0, threshold=0.6)
    inputs = ops.ones((2000, 4))
    share = ops.convert_to_numpy(gate(inputs, training=True, temperature=temperature)[0]).mean()
    assert (share > 0.9) == (temperature < 1)


def test_decisions_are_float32_under_mixed_precision():
    gate = Gate(2, dtype="mixed_bfloat16")
    keep, logits = gate(ops.cast(ops.ones((2, 4)), "bfloat16"))
    assert keras.backend.standardize_dtype(keep.dtype) == "float32"
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
