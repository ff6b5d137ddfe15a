"""Trained models for other runtimes: SavedModel for TensorFlow, ONNX for ONNX Runtime."""

from keras_adavit.export.write import export

__all__ = ["export"]
