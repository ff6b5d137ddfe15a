"""Dense, masked and packed inference side by side: is a saved MAC saved time?

    KERAS_BACKEND=tensorflow python benchmarks/inference.py --images FOLDER
    python benchmarks/inference.py --export exported && python benchmarks/exported.py exported

The three models take turns on the same images, so that whatever else the machine does falls on all; times are medians.
*realised* is the MAC ratio over the time ratio: 1 means that every saved MAC is saved time. A table has two parts:

- **gates**: the gates decide, calibrated to a share of the dense model's MACs, all of them jointly, or tokens and
  sub-layers alone. As no trained weights come with this project, weights are random, and the gates are set so that
  their logits over the images have a standard deviation of 1 in every head, sub-layer and block, around a mean that
  differs between heads and sub-layers, N(3, 1): 3 is the bias of a new gate.
- **prescribed**: chance decides, at given usages of tokens, heads and sub-layers, so that each kind of skipping shows
  alone.
"""

import dataclasses
import os
import statistics
import time
from pathlib import Path
from typing import Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tyro
from keras import ops
from rich.console import Console
from rich.table import Table
from turns import SMALLEST_TURN, processor, time_in_turns

import keras_adavit as ka

CALIBRATED = (("tokens", "blocks"), ("tokens", "heads", "blocks"))
WITHOUT_XLA = ("dense without XLA", "packed without XLA")
USAGES = ((1, 1, 1), (0.5, 1, 1), (1, 0.5, 1), (1, 1, 0.5), (0.6, 0.8, 0.8))


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Times dense, masked and packed inference of a published model side by side."""

    preset: str = "ada_deit_small_patch16_224"
    """Name of the model."""
    precision: Literal["float32", "bfloat16", "mixed_bfloat16"] = "float32"
    """Keras's policy of data types: bfloat16 for weights too, mixed for what is computed alone."""
    batch_size: tuple[int, ...] = (32,)
    """Images in a batch."""
    macs: tuple[float, ...] = (0.5,)
    """Shares of the dense model's MACs to which the gates are calibrated."""
    prescribed: bool = False
    """Time prescribed usages too."""
    images: Path | None = None
    """Folder of images, searched for .jpg, .jpeg, .png in any case; noise if not given."""
    rounds: int = 5
    """Turns of each model."""
    shift: int = 0
    """Pixels by which images move from turn to turn, so that every turn sees other ones; 0: the same."""
    processor_time: bool = False
    """Count the processor's time of all threads, for a machine that others use too; best with `taskset -c 0`."""
    masked: bool = True
    """Time masked execution too."""
    xla: bool = False
    """On TensorFlow, compile for XLA, and time dense and packed without it too."""
    calibrated: tuple[Literal["tokens", "heads", "blocks"], ...] = CALIBRATED[0]
    """With `--export`, which gates are calibrated."""
    export: Path | None = None
    """Folder, new: write ONNX files in float32 and int8, SavedModels, LiteRT and images there, for exported.py and
    serving.py."""


def main():
    arguments = tyro.cli(Arguments)
    if arguments.xla and keras.backend.backend() != "tensorflow":
        raise SystemExit(f"`--xla` needs KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}")
    keras.config.set_dtype_policy(arguments.precision)
    models = {
        name: build(arguments.preset, None if name.startswith("dense") else ka.GateConfig())
        for name in names(arguments)
    }
    images = load_images(arguments.images, models["dense"].backbone.image_size, max(arguments.batch_size))
    # XLA would compile packed once more, for the batches of the calibration.
    calibrated = models.get(WITHOUT_XLA[1], models["packed"])
    spread_gates(calibrated, images)
    for name, model in models.items():
        model.execution = "packed" if name.startswith("packed") else "masked"
        # XLA on JAX; it is slower on TensorFlow, and torch has its fused kernels without a compiler.
        model.compile(jit_compile=keras.backend.backend() == "jax" or (arguments.xla and name not in WITHOUT_XLA))
    if arguments.export is not None:
        export(models, arguments, images)
        return
    over_dense = [name for name in ("masked", "packed", *WITHOUT_XLA) if name in models]
    table = Table("policy", "batch", "MACs", *over_dense, "realised", "images/s, dense", "packed")
    for share in arguments.macs:
        for kinds in CALIBRATED:
            calibrate(calibrated, images, share, kinds)
            for name, model in models.items():
                if not name.startswith("dense") and model is not calibrated:
                    model.set_weights(calibrated.get_weights())
            for size in arguments.batch_size:
                label = f"gates, {share}: {', '.join(kinds)}"
                add_row(table, label, models, images, size, arguments)
    if arguments.prescribed:
        for usage in USAGES:
            label = "tokens {}, heads {}, sub-layers {}".format(*usage)
            add_row(table, label, models, images, len(images), dataclasses.replace(arguments, shift=0), usage)
    console = Console(width=160)
    console.print(
        f"{processor()}\n{arguments.preset}, {keras.backend.backend()}, {arguments.precision}; "
        "times over the dense model's",
        highlight=False,
    )
    console.print(table)


def calibrate(model, images, share, kinds):
    """Calibrates gates of some kinds, from the thresholds that a new model has."""
    for block in model.backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.threshold.assign(gate.initial_threshold)
    ka.calibrate(model, images, share, kinds)


def names(arguments):
    if arguments.export is not None:
        return "dense", "packed"
    return "dense", *(("masked",) if arguments.masked else ()), "packed", *(WITHOUT_XLA if arguments.xla else ())


def build(preset, gates, image_size=224):
    """A model with random weights, none of which a compiler could leave out."""
    keras.utils.set_random_seed(0)
    model = ka.AdaViTClassifier.from_preset(preset, image_size=image_size, gates=gates)
    for variable in model.trainable_variables:
        if variable.path.split("/")[-1] in ("bias", "beta", "gamma"):
            variable.assign(variable + 0.02 * keras.random.normal(variable.shape))
    return model


def load_images(folder, size, count):
    """At least 32 and `count` normalised images, (N, S, S, 3); those of a folder again and again, if they are fewer."""
    count = max(count, 32)
    if folder is None:
        return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype("float32")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    if not paths:
        raise SystemExit(f"error: `--images` must be a folder with images. Received: {folder}")
    read = [keras.utils.img_to_array(keras.utils.load_img(path, target_size=(size, size))) for path in paths]
    images = (np.stack(read) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return np.resize(images, (count, *images.shape[1:])).astype("float32")


def spread_gates(model, images):
    """Random gates whose logits over these images have a standard deviation of 1; see above."""
    rng = np.random.default_rng(0)
    gates = [
        (index, kind, getattr(block, f"{kind}_gate"))
        for index, block in enumerate(model.backbone.blocks)
        for kind in ("token", "head", "block")
        if getattr(block, f"{kind}_gate")
    ]
    for _, _, gate in gates:
        gate.kernel.assign(rng.normal(size=gate.kernel.shape) / gate.kernel.shape[0] ** 0.5)
        gate.bias.assign(np.full(gate.bias.shape, 100.0))  # all open while logits are measured
    keys = tuple(f"{kind}_logits" for kind in ("token", "head", "block"))
    found = [model(images[start : start + 16], details=keys) for start in range(0, len(images), 16)]
    logits = {key: np.concatenate([ops.convert_to_numpy(each[key]) for each in found]) for key in keys}
    for index, kind, gate in gates:
        own = logits[f"{kind}_logits"][:, index] - 100.0  # (B, units), of a token gate (B, T-1)
        axis = None if kind == "token" else 0
        mean, deviation = own.mean(axis=axis), own.std(axis=axis)
        offset = 3.0 if kind == "token" else rng.normal(3.0, size=mean.shape)
        gate.kernel.assign(gate.kernel / deviation)
        gate.bias.assign(np.broadcast_to(offset - mean / deviation, gate.bias.shape))


def add_row(table, label, models, images, size, arguments, usage=None):
    """Times the models in turns and adds a row."""
    images = images[: max(size, SMALLEST_TURN)]
    functions = {
        name: function_of(model, None if name.startswith("dense") else usage) for name, model in models.items()
    }
    clock = time.process_time if arguments.processor_time else time.perf_counter
    seconds, found = time_in_turns(functions, images, size, arguments.rounds, arguments.shift, clock)
    time_of = {name: statistics.median(values) for name, values in seconds.items()}
    macs = float(np.mean(found["packed"])) / models["dense"].dense_macs
    ratio = {name: value / time_of["dense"] for name, value in time_of.items()}
    table.add_row(
        label,
        str(size),
        f"{macs:.3f}",
        *(f"{value:.3f}" for name, value in ratio.items() if name != "dense"),
        f"{macs / ratio['packed']:.2f}",
        f"{len(images) / time_of['dense']:.1f}",
        f"{len(images) / time_of['packed']:.1f}",
    )


def function_of(model, usage):
    """A function of images that runs the model as `predict` does, or with a random policy of some usages."""
    if usage is None:
        return model.predict_on_batch
    from keras_adavit.evaluation.evaluate import predictor

    run = predictor(model, Prescribed(*usage))
    return lambda images: run(images, 0)


class Prescribed(ka.RandomPolicy):
    """A random policy that leaves open what the gates of the model leave open: heads and sub-layers of block 0."""

    def __call__(self, shapes, number=0):
        keeps = {key: ops.convert_to_numpy(keep).copy() for key, keep in super().__call__(shapes, number).items()}
        keeps["head_keep"][:, 0] = keeps["block_keep"][:, 0] = 1
        return keeps


def export(models, arguments, images):
    """Writes both models for other runtimes, the gates calibrated to the first share, and the images."""
    calibrate(models["packed"], images, arguments.macs[0], arguments.calibrated)
    arguments.export.mkdir()
    for name, model in models.items():
        ka.export(model, arguments.export / f"{name}.onnx", "onnx", model.execution)
        ka.export(model, arguments.export / f"{name}-int8.onnx", "onnx", model.execution, quantize="int8")
        ka.export(model, arguments.export / name, "saved_model", model.execution)
        ka.export(model, arguments.export / f"{name.replace('packed', 'masked')}.tflite", "litert")
    ka.export(models["packed"], arguments.export / "masked.onnx", "onnx", "masked")
    np.savez(arguments.export / "images.npz", images=images, dense_macs=models["dense"].dense_macs)


if __name__ == "__main__":
    main()
