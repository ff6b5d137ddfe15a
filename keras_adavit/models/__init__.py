"""Models: a backbone of gated blocks and the classifier that trains it."""
