import keras
import numpy as np
import pytest

import keras_adavit as ka
from keras_adavit.data import Digits


def test_defaults_are_those_of_imagenet():
    assert ka.Preprocessing() == ka.Preprocessing(0.875, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_it_survives_as_a_keras_object():
    made = ka.Preprocessing(crop_fraction=0.5, mean=[0.1], std=(np.float32(0.25),))
    assert made.mean == (0.1,)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made)) == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_fraction": 0.0}, "`crop_fraction` must be a number in (0, 1]. Received: crop_fraction=0.0"),
        ({"mean": ()}, "`mean` must be a tuple of numbers. Received: mean=()"),
        ({"mean": 0.5}, "`mean` must be a tuple of numbers. Received: mean=0.5"),
        ({"std": (0.5, 0.5, 0.0)}, "`std` must be a tuple of positive numbers"),
        ({"mean": (0.5,)}, "`mean` and `std` must have one number for each channel. Received: 1 and 3 numbers"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ka.InputError) as error:
        ka.Preprocessing(**arguments)
    assert message in str(error.value)


def test_a_source_without_photos_crops_nothing():
    source = Digits(image_size=16, min_digit=8, max_digit=12, validation_draws=1)
    splits = source.load(batch_size=8, seed=0)
    assert splits.preprocessing == ka.Preprocessing(1.0, splits.mean, splits.std)
