import numpy as np
import pytest
from keras import ops

from keras_adavit.gating.reduction import order_top


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_the_highest_first_and_either_part_ascending(count):
    scores = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    found = ops.convert_to_numpy(order_top(ops.convert_to_tensor(scores), count))
    for order, own in zip(found, scores, strict=True):
        best = np.argsort(-own)
        assert order.tolist() == sorted(best[:count]) + sorted(best[count:])


def test_ties_and_numbers_that_are_none():
    scores = ops.convert_to_tensor([[2.0, 3.0, 2.0, 2.0], [np.nan, 1.0, np.nan, -5.0], [np.nan] * 4])
    found = ops.convert_to_numpy(order_top(scores, 2))
    np.testing.assert_array_equal(found, [[0, 1, 2, 3], [1, 3, 0, 2], [0, 1, 2, 3]])
