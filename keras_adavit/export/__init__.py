"""Trained models for other runtimes: SavedModel for TensorFlow, ONNX for ONNX Runtime."""
