"""A model that outlives an error in `fit` or `evaluate`."""

import contextlib

import keras


@contextlib.contextmanager
def restored_on_error(model):
    """Gives a model its variables back when what is done inside ends in an error.

    Keras on JAX takes them from the model while it computes. It puts back what a batch returned: an error in the first
    one would leave the model without weights.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    values = [(each, each.value) for each in (*model.variables, *(optimizer.variables if optimizer else ()))]
    try:
        yield
    except BaseException:
        model.jax_state_sync()
        for variable, value in values:
            if variable._value is None:
                variable.assign(value)
        model.reset_metrics()  # those that are newer than `values`
        raise
