"""On JAX models compile variants for fewer sizes here, which takes most of the time, unless a test wants all."""

import keras
import pytest


@pytest.fixture(autouse=True)
def few_sizes(request, monkeypatch):
    if keras.backend.backend() == "jax" and not request.node.get_closest_marker("all_sizes"):
        from keras_adavit.inference import buckets

        monkeypatch.setattr(buckets, "ROW_LEVELS", 3)
        monkeypatch.setattr(buckets, "IMAGE_LEVELS", 2)
