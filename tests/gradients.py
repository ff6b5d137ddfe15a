"""Gradients on each backend: of a compiled model's training loss, and of a function."""

import keras
import numpy as np


def gradients(model, images, labels):
    """Runs one training pass without an update.

    Returns:
        The total loss, the outputs as NumPy arrays, and a dict from variable path to gradient.
    """
    variables = model.trainable_variables
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()](
        model, variables, images, labels
    )


def _arrays(outputs):
    return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}


def _tensorflow(model, variables, images, labels):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = model.compute_loss(images, labels, outputs, training=True)
    values = tape.gradient(loss, [variable.value for variable in variables])
    return float(loss), _arrays(outputs), _by_path(variables, values)


def _torch(model, variables, images, labels):
    model.zero_grad()
    outputs = model(images, training=True)
    loss = model.compute_loss(images, labels, outputs, training=True)
    loss.backward()
    return float(loss.detach()), _arrays(outputs), _by_path(variables, [variable.value.grad for variable in variables])


def _jax(model, variables, images, labels):
    import jax

    def loss_of(values):
        loss, (_, outputs, non_trainable, metrics) = model.compute_loss_and_updates(
            values, non_trainable_values, metrics_values, images, labels, None, True, []
        )
        return loss, (outputs, non_trainable, metrics)

    non_trainable_values = [variable.value for variable in model.non_trainable_variables]
    metrics_values = [variable.value for variable in model.metrics_variables]
    values = [variable.value for variable in variables]
    (loss, (outputs, _, metrics)), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(values)
    for variable, value in zip(model.metrics_variables, metrics, strict=True):
        variable.assign(value)
    return float(loss), _arrays(outputs), _by_path(variables, grads)


def _by_path(variables, values):
    """NumPy gradients by path; a variable that the loss does not reach is missing."""
    return {
        variable.path: np.asarray(keras.ops.convert_to_numpy(value))
        for variable, value in zip(variables, values, strict=True)
        if value is not None
    }


def gradient_of(function, values):
    """The gradient of a scalar function of one tensor at float32 `values`, a NumPy array."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(function)(keras.ops.convert_to_tensor(values)))
    if backend == "torch":
        tensor = keras.ops.convert_to_tensor(values).requires_grad_()
        function(tensor).backward()
        return tensor.grad.numpy()
    import tensorflow as tf

    tensor = tf.convert_to_tensor(values)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        result = function(tensor)
    return tape.gradient(result, tensor).numpy()
