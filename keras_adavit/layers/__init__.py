"""Layers: they wire the mathematics of `sampling` into a transformer block."""
