"""Peak memory of packed inference over that of the dense model.

    KERAS_BACKEND=tensorflow python benchmarks/memory.py --images FOLDER

Each model predicts in a process of its own, on Linux; what counts is the peak of the resident memory of the whole
process from when `predict` begins, for the first time and again. That holds what was freed and not given back too, such
as that of a compiler: `--allocated` counts what was in use alone, over the whole process, with memray (`pip install
memray`). Each loads its weights from a file; weights and gates are those of `inference.py`.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compares the peak memory of dense, masked and packed inference of a published model."""

    preset: str = "ada_deit_small_patch16_224"
    """Name of the model."""
    batch_size: int = 32
    """Images in a batch."""
    macs: float = 0.5
    """Share of the dense model's MACs to which tokens and sub-layers are calibrated."""
    images: Path | None = None
    """Folder of images; noise if not given."""
    allocated: bool = False
    """Count memory in use instead of resident memory."""
    only: Literal["dense", "masked", "packed"] | None = None
    """Measure one model in this process, and print its figures as JSON."""
    weights: Path | None = None
    """With `--only`, folder of the files of weights."""


def main():
    arguments = tyro.cli(Arguments)
    if arguments.only:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_weights(arguments, Path(folder))  # in this process, which is not measured
        found = {name: measure_alone(arguments, name, folder) for name in ("dense", "masked", "packed")}
    for name, peaks in found.items():
        shares = [
            f"{peak:6.0f} MiB, {peak / dense:.3f} of dense" for peak, dense in zip(peaks, found["dense"], strict=True)
        ]
        print(f"{name:7s} " + "; again ".join(shares))


def measure_alone(arguments, name, folder):
    """Peaks of a model in a process of its own, in MiB: one if allocated memory counts, else two, see `measure`."""
    trace = Path(folder) / f"{name}.bin"
    memray = ["-m", "memray", "run", "-o", str(trace)] if arguments.allocated else []
    command = [sys.executable, *memray, __file__, *sys.argv[1:], "--only", name, "--weights", folder]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    if arguments.allocated:
        from memray import FileReader

        return [FileReader(trace).metadata.peak_memory / 2**20]
    return json.loads(output.splitlines()[-1])


def measure(arguments):
    """Peaks of this process while it predicts for the first time, which compiles, and again: two numbers in MiB."""
    import inference
    import numpy as np

    import keras_adavit as ka

    gates = None if arguments.only == "dense" else ka.GateConfig()
    model = ka.AdaViTClassifier.from_preset(arguments.preset, gates=gates)
    with np.load(arguments.weights / f"{'dense' if arguments.only == 'dense' else 'gated'}.npz") as saved:
        model.set_weights([saved[str(index)] for index in range(len(saved))])
    if arguments.only != "dense":
        model.execution = arguments.only
    model.compile(jit_compile=inference.keras.backend.backend() == "jax")
    images = inference.load_images(arguments.images, model.backbone.image_size, arguments.batch_size)
    images = np.concatenate([images[: arguments.batch_size]] * 3)
    peaks = []
    for _ in range(2):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        model.predict(images, batch_size=arguments.batch_size, verbose=0)
        peaks.append(peak())
    return peaks


def write_weights(arguments, folder):
    import inference
    import numpy as np

    import keras_adavit as ka

    model = inference.build(arguments.preset, ka.GateConfig())
    images = inference.load_images(arguments.images, model.backbone.image_size, 32)
    inference.spread_gates(model, images)
    model.compile(jit_compile=inference.keras.backend.backend() == "jax")
    inference.calibrate(model, images, arguments.macs, ("tokens", "blocks"))
    for name, each in (("gated", model), ("dense", inference.build(arguments.preset, None))):
        np.savez(folder / f"{name}.npz", **{str(index): value for index, value in enumerate(each.get_weights())})


def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
