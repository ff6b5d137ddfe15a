"""Training: losses, optimizers and callbacks for `model.fit`."""
