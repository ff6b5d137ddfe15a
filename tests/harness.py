"""One call that checks what every layer must do."""

import keras
import numpy as np
from keras import ops


def check_layer(layer, inputs, output_shape, weights, **call):
    """Shapes, dtype, weight count, config round trip, determinism and mixed precision of a layer.

    Args:
        layer: A layer, not yet called.
        inputs: Float32 array.
        output_shape: Expected shape of the first output.
        weights: Expected number of trainable weight tensors.
        **call: More arguments of the call.

    Returns:
        The outputs as a list of arrays.
    """
    first = as_list(layer(ops.convert_to_tensor(inputs), **call))
    assert first[0].shape == output_shape
    assert len(layer.trainable_weights) == weights
    assert tuple(as_shapes(layer.compute_output_shape(inputs.shape))[0]) == output_shape

    config = layer.get_config()
    copy = type(layer).from_config(config)
    copy(ops.convert_to_tensor(inputs), **call)
    copy.set_weights(layer.get_weights())
    assert copy.get_config() == config
    for one, other in zip(first, as_list(copy(ops.convert_to_tensor(inputs), **call)), strict=True):
        np.testing.assert_array_equal(one, other)

    low = type(layer).from_config({**config, "dtype": keras.DTypePolicy("mixed_bfloat16")})
    low(ops.convert_to_tensor(inputs), **call)
    assert {variable.dtype for variable in low.trainable_variables} <= {"float32"}
    assert np.isfinite(as_list(low(ops.convert_to_tensor(inputs), **call))[0].astype("float32")).all()
    return first


def as_list(outputs):
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [ops.convert_to_numpy(value) for value in outputs if not isinstance(value, dict)]


def as_shapes(shapes):
    return shapes if isinstance(shapes[0], tuple) else (shapes,)
