"""What `PolicyTensorBoard` costs in training: an epoch with it, without it, and without the usage by block it reads.

    KERAS_BACKEND=tensorflow python benchmarks/board.py

The model is that of the digits recipe, whose steps are short. The three take turns, so that whatever else the machine
does falls on all; the time of each is the median of its turns. An epoch with the callback begins and ends its files.
"""

import dataclasses
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tyro

import keras_adavit as ka
from keras_adavit.evaluation.timing import time_in_turns


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Times epochs with and without the callback, in turns."""

    batch_size: int = 128
    """Images in a batch."""
    steps: int = 100
    """Steps in an epoch."""
    update_freq: int = 50
    """Steps between two points of the callback."""
    rounds: int = 7
    """Turns of each."""
    xla: bool = False
    """Compile with XLA on TensorFlow; JAX always does."""


def build(arguments, by_block):
    """The model of the digits recipe; without `by_block` it does not know the usage of its blocks."""
    backbone = ka.AdaViTBackbone(36, 6, 64, depth=4, num_heads=4, mlp_ratio=2.0, channels=1, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, num_classes=10)
    jit = True if arguments.xla and keras.backend.backend() == "tensorflow" else "auto"
    budget = ka.BudgetLoss(macs_target=0.5)
    model.compile(keras.optimizers.AdamW(1e-4), ka.CrossEntropy(), budget=budget, jit_compile=jit)
    if not by_block:
        model.policy_metrics.by_block.update_state = lambda outputs: None
    return model


def main():
    arguments = tyro.cli(Arguments)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(arguments.batch_size * arguments.steps, 36, 36, 1)).astype("float32")
    labels = rng.integers(0, 10, len(images))
    models = {name: build(arguments, by_block=name != "bare") for name in ("bare", "without", "with")}
    with tempfile.TemporaryDirectory() as folder:
        callbacks = {"with": [ka.PolicyTensorBoard(folder, update_freq=arguments.update_freq)]}

        def epoch(name):
            options = {"batch_size": arguments.batch_size, "verbose": 0, "callbacks": callbacks.get(name)}
            models[name].fit(images, labels, **options)

        seconds = time_in_turns({name: lambda name=name: epoch(name) for name in models}, arguments.rounds)
    bare, without, own = (each / arguments.steps for each in seconds.values())
    print(
        f"{keras.backend.backend()}: {without * 1e3:.2f} ms a step without the callback, with it {own / without:.4f} "
        f"of that; the usage by block is {1 - bare / without:.4f} of a step"
    )


if __name__ == "__main__":
    main()
