"""Weights from elsewhere: published PyTorch files, and dense models of this library."""
