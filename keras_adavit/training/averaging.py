"""Averaged weights: evaluated and saved, while training goes on with its own."""

import keras
from keras import ops


class AverageWeights(keras.callbacks.Callback):
    """Puts the optimizer's moving averages into the model for validation, and for callbacks that come after this one.

    The optimizer must keep them (`use_ema=True`). At the next epoch the weights of the training are back; `fit` itself
    ends with the averages. Keras' own `SwapEMAWeights` ends with the wrong ones where a training stops early.
    """

    def __init__(self):
        super().__init__()
        self.own = None

    def on_test_begin(self, logs=None):
        self.swap_in()

    def on_test_end(self, logs=None):
        self.restore()

    def on_epoch_end(self, epoch, logs=None):
        self.swap_in()

    def on_epoch_begin(self, epoch, logs=None):
        self.restore()

    def swap_in(self):
        """Puts the averages in."""
        if self.own is None:
            self.own = [ops.convert_to_numpy(variable).copy() for variable in self.model.trainable_variables]
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            # Copies: on JAX a compiled evaluation takes away the arrays that it is given.
            for variable in self.model.trainable_variables:
                variable.assign(ops.convert_to_numpy(variable).copy())

    def restore(self):
        """Puts the weights of the training back."""
        if self.own is not None:
            for variable, value in zip(self.model.trainable_variables, self.own, strict=True):
                variable.assign(value)
            self.own = None
