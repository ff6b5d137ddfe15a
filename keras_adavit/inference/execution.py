"""Masked or packed: how a model computes in evaluation."""

import warnings

import keras

from keras_adavit.errors import InputError

EXECUTIONS = ("masked", "packed")


def check_execution(execution):
    """Raises `InputError` unless it is one of `EXECUTIONS`."""
    if execution not in EXECUTIONS:
        raise InputError(f"`execution` must be 'masked' or 'packed'. Received: execution={execution!r}")


def can_pack(images, xla):
    """If shapes may depend on data here.

    Args:
        images: The tensor that a model is called with.
        xla: If the model was compiled for XLA.

    Returns:
        A bool; with a warning, once a place in the code, where XLA on TensorFlow is in the way.
    """
    backend = keras.backend.backend()
    if images.shape[0] == 0:  # nothing to pack
        return False
    if backend == "torch":
        return images.device.type != "meta"  # Keras asks for shapes alone
    if backend == "jax":
        return isinstance(images.shape[0], int)  # so it does, of any batch
    if backend == "tensorflow" and xla:
        import tensorflow as tf

        if not tf.executing_eagerly():
            warnings.warn(
                "Packed execution needs shapes that depend on data, which XLA on TensorFlow does not have: the model "
                "computes masked, with the same result. Compile it with `jit_compile=False` to pack.",
                stacklevel=2,
            )
            return False
    return True
