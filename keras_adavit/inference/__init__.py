"""Inference that computes only what was kept, and thresholds for a compute budget."""
