"""The exported models in their own runtimes, dense and packed, in float32 and int8, in turns; LiteRT beside ONNX.

This process never imports keras_adavit.

    python benchmarks/inference.py --export exported && python benchmarks/exported.py exported
    taskset -c 0 python benchmarks/exported.py exported --processor-time  # where others use the machine too
"""

import argparse
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from turns import SMALLEST_TURN, processor, time_in_turns

KINDS = ("dense", "packed")


def onnx_runtime(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))  # the default does not ask `taskset`
    session = onnxruntime.InferenceSession(f"{path}.onnx", options)
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


def saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def run(images, loaded=loaded):  # keeps the variables
        return {name: value.numpy() for name, value in serve(images=tf.constant(images)).items()}

    return run


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(f"{path}.tflite", num_threads=len(os.sched_getaffinity(0))).get_signature_runner()
    return lambda images: runner(images=images)


def openvino(path):
    from openvino import Core

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))}
    compiled = Core().compile_model(f"{path}.onnx", "CPU", options)

    def run(images):
        return {output.any_name: array for output, array in compiled({"images": images}).items()}

    return run


RUNTIMES = (
    ("ONNX Runtime", onnx_runtime, ("", "-int8")),
    ("OpenVINO", openvino, ("", "-int8")),
    ("SavedModel", saved_model, ("",)),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32])
    parser.add_argument("--rounds", type=int, default=5)
    names = [name for name, *_ in RUNTIMES] + ["LiteRT"]
    parser.add_argument("--processor-time", action="store_true", help="of all threads, in place of time")
    parser.add_argument("--runtimes", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    data = np.load(f"{arguments.folder}/images.npz")
    most = len(data["images"])
    if max(arguments.batch_size) > most:
        parser.error(f"`--batch-size` must be at most the {most} images exported. Received: {arguments.batch_size}")
    clock = time.process_time if arguments.processor_time else time.perf_counter
    print(f"{processor()}, of which this process uses {len(os.sched_getaffinity(0))}")
    for name, load, precisions in RUNTIMES:
        if name not in arguments.runtimes:
            continue
        names = [kind + precision for precision in precisions for kind in KINDS]
        models = {each: load(f"{arguments.folder}/{each}") for each in names}
        for size in arguments.batch_size:
            images = data["images"][: max(size, SMALLEST_TURN)]
            for shift, which in ((0, "the same images"), (5, "other images")):
                seconds, macs = time_in_turns(models, images, size, arguments.rounds, shift, clock)
                print(f"{name}, batch {size}, {which} every turn:")
                for precision in precisions:
                    dense, packed = (statistics.median(seconds[kind + precision]) for kind in KINDS)
                    share, count = np.mean(macs[f"packed{precision}"]) / data["dense_macs"], len(images)
                    print(
                        f"  {precision.strip('-') or 'float32'}: MACs {share:.3f}, time {packed / dense:.3f}, "
                        f"realised {share * dense / packed:.2f}, "
                        f"images/s dense {count / dense:.1f}, packed {count / packed:.1f}",
                        flush=True,
                    )
        if "-int8" in precisions:
            for kind in KINDS:
                print(f"{name}, int8 against float32, {kind}: {agreement(models, kind, data['images'])}")
    if "LiteRT" in arguments.runtimes:
        show_litert(arguments, data["images"], clock)
    if "keras_adavit" in sys.modules:
        raise SystemExit("error: this process must not import the package that exported")


def show_litert(arguments, images, clock):
    """Prints the times of LiteRT, which computes everything, over that of the dense model in ONNX Runtime."""
    models = {f"LiteRT, {kind}": litert(f"{arguments.folder}/{kind}") for kind in ("dense", "masked")}
    models["ONNX Runtime, dense"] = onnx_runtime(f"{arguments.folder}/dense")
    for size in arguments.batch_size:
        taken = images[: max(size, SMALLEST_TURN)]
        seconds, _ = time_in_turns(models, taken, size, arguments.rounds, clock=clock)
        *others, reference = ({"name": name, "time": statistics.median(each)} for name, each in seconds.items())
        for other in others:
            print(f"{other['name']}, batch {size}: {other['time'] / reference['time']:.2f} of {reference['name']}")


def agreement(models, kind, images):
    """How many images get the same class and the same decisions in int8, in words."""
    parts = [images[start : start + SMALLEST_TURN] for start in range(0, len(images), SMALLEST_TURN)]
    found = [[models[kind + precision](part) for part in parts] for precision in ("", "-int8")]
    one, other = ({key: np.concatenate([part[key] for part in each]) for key in each[0]} for each in found)
    top1 = (one["logits"].argmax(1) == other["logits"].argmax(1)).sum()
    same = [(one[key] == other[key]).reshape(len(images), -1) for key in ("token_keep", "head_keep", "block_keep")]
    every, keeps = np.all([each.all(1) for each in same], axis=0).sum(), np.mean([each.mean() for each in same])
    difference = np.linalg.norm(other["logits"] - one["logits"]) / np.linalg.norm(one["logits"])
    return (
        f"of {len(images)} images {top1} get the same class and {every} the same decisions throughout, {keeps:.2%} of "
        f"all decisions are the same, logits differ by {difference:.3f} of their norm"
    )


if __name__ == "__main__":
    main()
