"""The model that is written: images in, the classifier's outputs out."""

import keras


class ExportedModel(keras.Model):
    """An `AdaViTClassifier` with its execution fixed.

    Args:
        model: An `AdaViTClassifier`.
        execution: `"masked"` or `"packed"`.
        unroll: Whether packed blocks are written out, for ONNX, to which functions that are called are not converted.
        probabilities: Whether the probabilities (B, K) are returned too.
    """

    def __init__(self, model, execution, unroll, probabilities=False):
        super().__init__(autocast=False, name=model.name)
        self.model = model
        self.execution = execution
        self.unroll = unroll
        self.probabilities = probabilities
        self.built = True

    def call(self, images):
        outputs = self.model(images, execution=self.execution, unroll=self.unroll)
        if self.probabilities:
            outputs["probabilities"] = keras.ops.softmax(outputs["logits"])
        return outputs
