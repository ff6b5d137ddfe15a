"""The exported models in their own runtimes, dense and packed in turns; this process never imports keras_adavit.

python benchmarks/inference.py --export exported && python benchmarks/exported.py exported
"""

import argparse
import os
import statistics
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from turns import SMALLEST_TURN, time_in_turns


def onnx_runtime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(f"{path}.onnx")
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


def saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def run(images, loaded=loaded):  # keeps the variables
        return {name: value.numpy() for name, value in serve(images=tf.constant(images)).items()}

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    data = np.load(f"{arguments.folder}/images.npz")
    for name, load in (("ONNX Runtime", onnx_runtime), ("SavedModel", saved_model)):
        models = {kind: load(f"{arguments.folder}/{kind}") for kind in ("dense", "packed")}
        for size in arguments.batch_size:
            if size > len(data["images"]):
                parser.error(
                    f"`--batch-size` must be at most the {len(data['images'])} images exported. Received: {size}"
                )
            images = data["images"][: max(size, SMALLEST_TURN)]
            for shift, which in ((0, "the same images"), (5, "other images")):
                seconds, macs = time_in_turns(models, images, size, arguments.rounds, shift)
                dense, packed = (statistics.median(seconds[kind]) for kind in models)
                share, count = np.mean(macs["packed"]) / data["dense_macs"], len(images)
                print(
                    f"{name}, batch {size}, {which} every turn: MACs {share:.3f}, time {packed / dense:.3f}, "
                    f"realised {share * dense / packed:.2f}, "
                    f"images/s dense {count / dense:.1f}, packed {count / packed:.1f}",
                    flush=True,
                )
    if "keras_adavit" in sys.modules:
        raise SystemExit("error: this process must not import the package that exported")


if __name__ == "__main__":
    main()
