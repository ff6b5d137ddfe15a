"""Writes LiteRT, for telephones and small boards: Keras and TensorFlow convert."""

import os

import keras

from keras_adavit.export.wrapper import ExportedModel

IDENTIFIER, PLACE = b"TFL3", slice(4, 8)  # what every file of this format has, and where


def write_litert(model, path):
    """Writes the masked graph to a path.

    Of LiteRT's own operations alone: those of TensorFlow need a library that its interpreter does not bring along.
    """
    import tensorflow as tf

    exported = ExportedModel(model, "masked", unroll=True)
    signature = [keras.InputSpec(shape=(None, *model.backbone.image_shape), dtype="float32", name="images")]
    named = path.with_name(f"{path.name}.tflite")  # which Keras asks for
    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    exported.export(str(named), format="litert", input_signature=signature, verbose=False, target_spec=target)
    os.replace(named, path)


def is_litert(path):
    """Whether a file is of this format."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(PLACE.stop)[PLACE] == IDENTIFIER
