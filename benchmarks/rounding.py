"""What int8 changes of a trained model: classes, decisions, accuracy and time, beside float32, dense and packed.

    python benchmarks/rounding.py model.keras --data FOLDER --dense dense.keras

`FOLDER` has a folder of photos for each class. Both models are exported to ONNX in float32 and in int8, and run by ONNX
Runtime on the same photos, as evaluation prepares them; the files take turns, so that whatever else the machine does
falls on all.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from exported import agreement, onnx_runtime
from turns import processor, time_in_turns

import keras_adavit as ka
from keras_adavit.data.photo_files import find_photos, read_photos
from keras_adavit.models.saved import load_model

PRECISIONS = {"": None, "-int8": "int8"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a gated .keras file that knows its classes and preprocessing")
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder of photos for each class")
    parser.add_argument("--dense", help="a .keras file to compare its time with")
    parser.add_argument("--images", type=int, default=2000, help="photos, evenly from all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    files = {"packed": arguments.model} | ({"dense": arguments.dense} if arguments.dense else {})
    models = {kind: load_model(file) for kind, file in files.items()}
    images, labels = load(arguments.data, models["packed"], arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for kind, model in models.items():
            for suffix, quantize in PRECISIONS.items():
                path = f"{folder}/{kind}{suffix}"
                ka.export(model, f"{path}.onnx", "onnx", "packed", quantize=quantize)
                runs[kind + suffix] = onnx_runtime(path)
    print(processor())
    for name, run in runs.items():
        parts = [run(images[at : at + arguments.batch_size]) for at in range(0, len(images), arguments.batch_size)]
        top1 = np.concatenate([part["logits"].argmax(1) for part in parts])
        share = np.concatenate([part["macs"] for part in parts]).mean() / models["packed"].dense_macs
        print(f"{name}: top-1 {(top1 == labels).mean():.2%} of {len(labels)} photos, MACs {share:.3f}")
    for kind in models:
        print(f"int8 against float32, {kind}: {agreement(runs, kind, images)}")
    seconds, _ = time_in_turns(runs, images[: 16 * arguments.batch_size], arguments.batch_size, arguments.rounds)
    reference = statistics.median(seconds["dense" if arguments.dense else "packed"])
    for name, each in seconds.items():
        print(f"{name}, batches of {arguments.batch_size}: time {statistics.median(each) / reference:.3f} of float32")


def load(folder, model, count):
    """Images (N, S, S, C) as the model takes them, and their labels (N,), evenly from all of a folder."""
    files = find_photos([folder])
    files = [files[at] for at in np.unique(np.linspace(0, len(files) - 1, count).astype(int))]
    numbers = {name: number for number, name in enumerate(model.class_names)}
    labels = np.array([numbers[Path(file).parent.name] for file in files])
    return np.concatenate(list(read_photos(files, model.backbone.image_size, model.preprocessing, 256))), labels


if __name__ == "__main__":
    main()
