"""A small compiled classifier, and what a refusal looks like."""

import contextlib
import re

import keras
import numpy as np
import pytest

import keras_adavit as ka

SIZES = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")
LABELS = np.arange(6) % 4
SHAPES = {"token_keep": (6, 2, 5), "head_keep": (6, 2, 3), "block_keep": (6, 2, 2)}
NAN = float("nan")


def make_model(gates=ka.GateConfig(), loss=None, eager=True):  # noqa: B008, a frozen dataclass
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES, gates=gates), num_classes=4)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, run_eagerly=eager)  # few calls: compiling takes longer
    return model


def assert_refuses(call, *arguments):
    """`call` ends in one sentence that names one of the arguments, none for any."""
    with pytest.raises(ka.InputError) as error:
        call()
    message = str(error.value)
    assert re.search("`(" + ("|".join(map(re.escape, arguments)) or r"[\w\[\]]+") + ")`", message), message
    assert "Received: " in message
    assert "\n" not in message
    assert len(message) < 600


@contextlib.contextmanager
def assert_untouched(model):
    """What is done inside leaves every weight of a model as it was."""
    before = model.get_weights()
    yield
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
