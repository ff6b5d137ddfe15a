"""Experiments: a recipe, and what training does with it."""
