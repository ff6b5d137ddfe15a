"""The task loss and the accuracy of the recipes, for either form of label."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_adavit")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits (B, K) with integer labels (B,) or with mixed ones (B, K), as MixUp makes them.

    Keras has one loss for either form of label, and smooths the second alone.

    ```python
    model.compile("adamw", ka.CrossEntropy(label_smoothing=0.1))
    ```

    Args:
        label_smoothing: Share of the label given to all classes, in [0, 1).
    """

    def __init__(self, label_smoothing=0.0, name="cross_entropy", reduction="sum_over_batch_size", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = label_smoothing

    def call(self, labels, logits):
        # The base class casts labels to floats; only whole numbers come without a class axis.
        if len(labels.shape) < len(logits.shape):
            labels = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1])
        return keras.losses.categorical_crossentropy(
            labels, logits, from_logits=True, label_smoothing=self.label_smoothing
        )

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable("keras_adavit")
def accuracy(labels, logits):
    """Whether the largest logit is the label's: float32 (B,), of integer labels (B,) or mixed ones (B, K).

    Of mixed labels, the class with the larger share counts.
    """
    if len(labels.shape) == len(logits.shape):
        labels = ops.argmax(labels, axis=-1)
    return ops.cast(ops.cast(labels, "int32") == ops.cast(ops.argmax(logits, axis=-1), "int32"), "float32")
