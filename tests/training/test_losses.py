import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.training.losses import accuracy

LOGITS = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
LABELS = np.array([0, 1, 2, 3, 0, 1])


def value(loss, labels):
    return float(ops.convert_to_numpy(loss(ops.convert_to_tensor(labels), ops.convert_to_tensor(LOGITS))))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_integer_and_one_hot_labels_agree_with_keras(smoothing):
    one_hot = np.eye(4, dtype="float32")[LABELS]
    expected = value(keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing), one_hot)
    assert value(ka.CrossEntropy(smoothing), LABELS) == pytest.approx(expected, rel=1e-6)
    assert value(ka.CrossEntropy(smoothing), one_hot) == pytest.approx(expected, rel=1e-6)


def test_mixed_labels_mix_the_loss():
    one, other = np.eye(4, dtype="float32")[LABELS], np.eye(4, dtype="float32")[LABELS[::-1]]
    mixed = value(ka.CrossEntropy(), 0.3 * one + 0.7 * other)
    assert mixed == pytest.approx(0.3 * value(ka.CrossEntropy(), one) + 0.7 * value(ka.CrossEntropy(), other), rel=1e-5)


def test_accuracy_of_either_form_of_label():
    best = LOGITS.argmax(axis=1)
    labels = np.where([True, True, False, True, False, True], best, (best + 1) % 4)
    mixed = 0.6 * np.eye(4, dtype="float32")[labels] + 0.4 * np.eye(4, dtype="float32")[(labels + 1) % 4]
    for form in (labels, mixed):
        found = accuracy(ops.convert_to_tensor(form), ops.convert_to_tensor(LOGITS))
        np.testing.assert_array_equal(ops.convert_to_numpy(found), [1, 1, 0, 1, 0, 1])


def test_round_trip():
    loss = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ka.CrossEntropy(0.2)))
    assert loss.label_smoothing == 0.2
