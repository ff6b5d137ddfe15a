import keras
import numpy as np
import pytest
from keras import ops

from keras_adavit.gating import sampling


def test_noise_is_standard_logistic():
    noise = ops.convert_to_numpy(sampling.gumbel_noise((200_000,), keras.random.SeedGenerator(1)))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.02
    assert noise.std() == pytest.approx(np.pi / np.sqrt(3), rel=0.01)
    assert (noise > 1.0).mean() == pytest.approx(1 / (1 + np.e), abs=0.005)


@pytest.mark.parametrize(("temperature", "threshold"), [(1.0, 0.5), (5.0, 0.5), (5.0, 0.6), (0.5, 0.6)])
def test_keep_rate_is_the_probability_that_theory_says(temperature, threshold):
    logits = ops.full((100_000,), 0.7)
    noise = sampling.gumbel_noise((100_000,), keras.random.SeedGenerator(2))
    keep = ops.convert_to_numpy(sampling.gumbel_sigmoid(logits, noise, temperature, threshold))
    # σ((l + n)/τ) > t  ⇔  n > τ·logit(t) − l, and n is standard logistic.
    expected = 1 / (1 + np.exp(temperature * np.log(threshold / (1 - threshold)) - 0.7))
    assert set(np.unique(keep)) == {0.0, 1.0}
    assert keep.mean() == pytest.approx(expected, abs=0.006)


def test_decision_is_strict_and_exact():
    keep = ops.convert_to_numpy(sampling.straight_through(ops.convert_to_tensor([0.5, 0.6, 0.60001, 0.9]), 0.6))
    np.testing.assert_array_equal(keep, np.float32([0, 0, 1, 1]))
