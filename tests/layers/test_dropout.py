import numpy as np
import pytest
from harness import check_layer
from keras import ops

from keras_adavit.layers.dropout import Dropout

INPUTS = np.random.default_rng(0).normal(size=(200, 5, 6)).astype("float32")


def test_evaluation_drops_nothing():
    (found,) = check_layer(Dropout(0.5), INPUTS, INPUTS.shape, 0)
    np.testing.assert_array_equal(found, INPUTS)


@pytest.mark.parametrize("whole_images", [False, True])
def test_training_drops_and_scales(whole_images):
    layer = Dropout(0.25, whole_images)
    found, other = (ops.convert_to_numpy(layer(INPUTS, training=True)) for _ in range(2))
    kept = found != 0
    np.testing.assert_allclose(found[kept], INPUTS[kept] / 0.75, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.15
    assert (found != other).any()
    images = kept.reshape(200, -1)
    assert (images.all(axis=1) == images.any(axis=1)).all() == whole_images


def test_no_rate_is_no_change():
    np.testing.assert_array_equal(ops.convert_to_numpy(Dropout(0.0)(INPUTS, training=True)), INPUTS)
