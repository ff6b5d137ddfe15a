"""What gating costs in training: the gated model against the dense one of the same size, on random images.

    KERAS_BACKEND=tensorflow python benchmarks/training.py

Both models train in turns, a few steps each, so that whatever else the machine does falls on both; the ratio is that
of the medians. Prints one line: backend, dense and gated milliseconds a step, and their ratio.
"""

import dataclasses
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tyro

import keras_adavit as ka
from keras_adavit.evaluation.timing import time_in_turns


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Times training steps of the gated and the dense model side by side."""

    image_size: int = 224
    """Side of the images in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    width: int = 192
    """Width of a token: 192 is DeiT-Ti."""
    depth: int = 12
    """Blocks."""
    num_heads: int = 3
    """Heads."""
    batch_size: int = 16
    """Images in a batch."""
    rounds: int = 12
    """Turns of each model."""
    steps: int = 2
    """Steps in a turn."""
    xla: bool = False
    """Compile with XLA on TensorFlow; JAX always does."""


def build(arguments, gates):
    backbone = ka.AdaViTBackbone(
        arguments.image_size,
        arguments.patch_size,
        arguments.width,
        arguments.depth,
        arguments.num_heads,
        gates=gates,
    )
    model = ka.AdaViTClassifier(backbone, num_classes=100)
    budget = ka.BudgetLoss() if gates else None
    jit = True if arguments.xla and keras.backend.backend() == "tensorflow" else "auto"
    model.compile(keras.optimizers.AdamW(1e-4), ka.CrossEntropy(), budget=budget, jit_compile=jit)
    return model


def train(model, images, labels, steps):
    for _ in range(steps):
        model.train_on_batch(images, labels)


def main():
    arguments = tyro.cli(Arguments)
    rng = np.random.default_rng(0)
    side = arguments.image_size
    images = rng.normal(size=(arguments.batch_size, side, side, 3)).astype("float32")
    labels = rng.integers(0, 100, arguments.batch_size)
    models = {"dense": build(arguments, None), "gated": build(arguments, ka.GateConfig())}
    steps = {name: lambda model=model: train(model, images, labels, arguments.steps) for name, model in models.items()}
    dense, gated = (seconds / arguments.steps for seconds in time_in_turns(steps, arguments.rounds).values())
    print(
        f"{keras.backend.backend()}: dense {dense * 1e3:.1f} ms, gated {gated * 1e3:.1f} ms a step of "
        f"{arguments.batch_size} images, ratio {gated / dense:.3f}"
    )


if __name__ == "__main__":
    main()
