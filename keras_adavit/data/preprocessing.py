"""What becomes of a photo before a model sees it."""

from __future__ import annotations

import keras

from keras_adavit.errors import InputError
from keras_adavit.settings import PositiveFloat, PositiveShare, settings, several

Mean = several(float, "a tuple of numbers")
Std = several(PositiveFloat, "a tuple of positive numbers")


@keras.saving.register_keras_serializable("keras_adavit")
@settings
class Preprocessing:
    """How photos are cropped and normalised: the central square, resized to the model's size, `(pixels - mean) / std`.

    ```python
    model.preprocessing = ka.Preprocessing(crop_fraction=0.9)
    grey = ka.Preprocessing(crop_fraction=1.0, mean=(0.5,), std=(0.25,))  # for a model of one channel
    ```

    Args:
        crop_fraction: Side of the central square over the photo's shorter side, in (0, 1].
        mean: Taken from the channels in 0..1, a number each; the default is ImageNet's.
        std: The channels are divided by it; the default is ImageNet's.

    Raises:
        InputError: If an argument is outside its range, or `mean` and `std` differ in length.
    """

    crop_fraction: PositiveShare = 0.875
    mean: Mean = (0.485, 0.456, 0.406)
    std: Std = (0.229, 0.224, 0.225)

    def __post_init__(self):
        if len(self.mean) != len(self.std):
            raise InputError(
                f"`mean` and `std` must have one number for each channel. "
                f"Received: {len(self.mean)} and {len(self.std)} numbers"
            )

    def get_config(self):
        return {"crop_fraction": self.crop_fraction, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
