import keras
import numpy as np
import pytest
from gradients import gradient_of, gradients
from keras import ops

import keras_adavit as ka
from keras_adavit.kernels.dispatch import attention, gelu, gradient_barrier, linear


def rounded(shape, seed):
    """Normal numbers that bfloat16 holds exactly, as float64."""
    values = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return ops.convert_to_numpy(ops.cast(ops.cast(values, "bfloat16"), "float32")).astype("float64")


@pytest.mark.parametrize("shape", [(64, 96), (2, 5, 96)], ids=["rows", "images"])
def test_a_linear_layer_in_bfloat16_rounds_once(shape):
    inputs, kernel, bias = rounded(shape, 0), rounded((96, 48), 1), rounded(48, 2)
    exact = inputs @ kernel + bias
    outputs = linear(*(ops.cast(part, "bfloat16") for part in (inputs, kernel, bias)))
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    # Half of the distance of two numbers, of 8 bits, and what float32 adds.
    error = np.abs(ops.convert_to_numpy(ops.cast(outputs, "float32")) - exact)
    assert (error <= 2.0**-8 * np.abs(exact) + 1e-4).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_adds_numbers_to_the_scores(dtype):
    query, key, value = np.random.default_rng(0).normal(size=(3, 2, 3, 5, 4)).astype("float32")
    sizes = np.float32([[1, 2, 5, 1, 3], [4, 1, 1, 1, 2]])
    scores = query @ key.transpose(0, 1, 3, 2) / 2
    weights = np.exp(scores) * sizes[:, None, None]
    expected = weights / weights.sum(axis=-1, keepdims=True) @ value
    tensors = (ops.cast(ops.convert_to_tensor(part), dtype) for part in (query, key, value))
    found = attention(*tensors, ops.log(ops.convert_to_tensor(sizes))[:, None, None])
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_allclose(ops.cast(found, "float32"), expected, atol=1e-5 if dtype == "float32" else 0.05)


def test_gelu_is_the_exact_one():
    inputs = np.linspace(-5, 5, 101, dtype="float32")
    expected = ops.convert_to_numpy(ops.gelu(inputs, approximate=False))
    np.testing.assert_allclose(ops.convert_to_numpy(gelu(ops.convert_to_tensor(inputs))), expected, atol=1e-6)


def test_gradients_in_bfloat16_are_close_to_those_in_float32():
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    labels = np.array([0, 1, 2, 0])
    found = []
    for dtype in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        backbone = ka.AdaViTBackbone(image_size=16, patch_size=4, width=24, depth=2, num_heads=3, dtype=dtype)
        model = ka.AdaViTClassifier(backbone, num_classes=3)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        _, _, values = gradients(model, images, labels)
        found.append({path.split("/", 1)[1]: value.astype("float64") for path, value in values.items()})
    exact, close = found
    assert exact.keys() == close.keys()
    for path, value in exact.items():
        assert np.linalg.norm(close[path] - value) < 0.05 * np.linalg.norm(value) + 1e-6, path


@pytest.mark.parametrize("first", [1.0, np.inf, np.nan])
def test_a_gradient_barrier_changes_nothing(first):
    values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(gradient_barrier(ops.convert_to_tensor(values))), values)
    slopes = values.copy()
    slopes[0, 0, 0] = first
    found = gradient_of(lambda tensor: ops.sum(gradient_barrier(tensor) * ops.convert_to_tensor(slopes)), values)
    if np.isfinite(first):
        np.testing.assert_array_equal(found, slopes)
    else:
        assert not np.isfinite(found).all()  # a step with such a gradient is left out, or is an error
