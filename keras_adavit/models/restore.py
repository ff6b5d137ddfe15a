"""A model that outlives an error in `fit` or `evaluate`."""

import contextlib

import keras


@contextlib.contextmanager
def restored_on_error(model, trains):
    """Gives a model its variables back, and functions to be traced anew, when what is done inside ends in an error.

    Keras on JAX takes the variables from the model while it computes. It puts back what a batch returned: an error in
    the first one would leave the model without weights. On TensorFlow a function whose first trace ended in an error
    cannot create the variables of the optimizer any more.

    Args:
        model: A compiled `keras.Model`, or one that needs no compiling.
        trains: Whether what is done inside trains, and so needs the variables of the optimizer.
    """
    values = []
    if keras.backend.backend() == "jax":
        optimizer = getattr(model, "optimizer", None)
        if trains and optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        values = [(each, each.value) for each in (*model.variables, *(optimizer.variables if optimizer else ()))]
    try:
        yield
    except BaseException:
        model.train_function = model.test_function = model.predict_function = None
        if keras.backend.backend() == "jax":
            model.jax_state_sync()
            for variable, value in values:
                if variable._value is None:
                    variable.assign(value)
            model.reset_metrics()  # those that are newer than `values`
        raise
