"""Measures one backend for `gpu.py`, which starts it: dense, masked and packed inference, and training steps.

Images are on the device before the clock starts, and a call ends when its results are there. The models take turns on
the same images; times are medians. Weights and gates are those of `inference.py`, made once for all backends.
"""

import contextlib
import itertools
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import inference
import keras
import numpy as np
import training
from gpu import update
from keras import ops

import keras_adavit as ka
from keras_adavit.evaluation.timing import time_in_turns
from keras_adavit.gating.policy import POLICY_KEYS
from keras_adavit.models.presets import find_preset

BACKEND = keras.backend.backend()
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
NAMES = ("dense", "masked", "packed")
CALIBRATED = 32  # images over which gates are set
TURN = 0.2  # seconds of a turn of the slowest model
MANY, FEW = 100, 8  # calls of a turn, at most and, unless they are slow, at least


class Session:
    """What one backend measures, and where it writes that."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.longest = 5.0  # seconds that a measurement took

    def write(self, **entries):
        update(self.arguments["output"], lambda found: found["backends"].setdefault(BACKEND, {}).update(entries))

    def measure(self, label, function, *arguments):
        """Runs a measurement, which returns a dict, and writes it, or why there is none."""
        entry, start = dict(label), time.time()
        if start + self.longest / 2 > self.arguments["deadline"]:  # the first ones take longer
            entry["left_out"] = "no time left"
        else:
            try:
                entry |= function(*arguments)
            except Exception as error:  # whatever it is, it is told, and others go on
                entry["failure"] = message(error)
            self.longest = max(self.longest, time.time() - start)
            entry["seconds"] = round(time.time() - start, 1)
        print(f"{BACKEND}: {json.dumps(entry)}", flush=True)
        add = lambda found: found["backends"][BACKEND].setdefault("measurements", []).append(entry)  # noqa: E731
        update(self.arguments["output"], add)


def main():
    arguments = json.loads(sys.argv[1])
    session = Session(arguments)
    device, settings = describe_device()
    session.write(device=device, keras=keras.__version__, **settings)
    if device is None and arguments["has_accelerator"]:
        why = "it sees no accelerator, and this machine has one"
        print(f"{BACKEND} is left out: {why}", flush=True)
        session.write(left_out=why)
        return
    folder, side = arguments["images"] and Path(arguments["images"]), arguments["image_size"]
    images = inference.load_images(folder, side, max(arguments["batches"]))
    prepare(arguments, images[:CALIBRATED])
    models = {}
    for size, precision, xla in itertools.product(arguments["batches"], arguments["precisions"], with_xla(device)):
        label = {"what": "inference", "batch": size, "precision": precision, "xla": xla}
        session.measure(label, measure_inference, models, precision, xla, images, size, arguments)
    models.clear()
    for precision in arguments["precisions"] if arguments["train_batch"] else ():
        label = {"what": "training step", "batch": arguments["train_batch"], "precision": precision}
        session.measure(label, measure_training, precision, arguments)


def with_xla(device):
    """Whether models are compiled for XLA: with and without where there is a choice and Keras would choose it."""
    if BACKEND == "tensorflow" and device:
        return True, False
    return (BACKEND == "jax",)


def describe_device():
    """The accelerator's name as the backend tells it, or `None`, and settings that bear on times: a dict."""
    if BACKEND == "jax":
        import jax

        device = jax.devices()[0]
        precision = jax.config.jax_default_matmul_precision
        found = None if device.platform == "cpu" else device.device_kind
        return found, {"version": jax.__version__, "matmul_precision": precision or "default, may round to TF32"}
    if BACKEND == "torch":
        import torch

        found = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        precision = torch.get_float32_matmul_precision()
        return found, {"version": torch.__version__, "matmul_precision": precision, "cuda": torch.version.cuda}
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    found = tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU") if devices else None
    rounds = tf.config.experimental.tensor_float_32_execution_enabled()
    return found, {"version": tf.__version__, "matmul_precision": f"rounds to TF32: {rounds}"}


def prepare(arguments, images):
    """Makes the gated model's weights, calibrated, unless another backend has."""
    file = Path(arguments["weights"])
    if file.is_file():
        return
    model = inference.build(arguments["preset"], ka.GateConfig(), arguments["image_size"])
    inference.spread_gates(model, images)
    model.compile(jit_compile=BACKEND == "jax")
    inference.calibrate(model, images, arguments["macs"], ("tokens", "blocks"))
    unfinished = file.with_suffix(".unfinished.npz")
    np.savez(unfinished, **{str(index): value for index, value in enumerate(model.get_weights())})
    unfinished.replace(file)


def models_of(models, precision, arguments):
    """The dense and the gated model of a precision, made once."""
    if precision not in models:
        with dtype_policy(precision):
            dense, gated = (
                inference.build(arguments["preset"], gates, arguments["image_size"])
                for gates in (None, ka.GateConfig())
            )
        with np.load(arguments["weights"]) as saved:
            gated.set_weights([saved[str(index)] for index in range(len(saved))])
        models[precision] = dense, gated
    return models[precision]


@contextlib.contextmanager
def dtype_policy(precision):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def measure_inference(models, precision, xla, images, size, arguments):
    """Times of a batch, and how far packed outputs are from masked ones."""
    dense, gated = models_of(models, precision, arguments)
    for model in (dense, gated):
        model.compile(jit_compile=xla)
    starts = range(0, len(images) - size + 1, size)[:MANY]
    batches = [ops.convert_to_tensor(images[start : start + size]) for start in starts]
    runs, compiling, failures, slowest = {}, {}, {}, 0.0
    for name in NAMES:
        run = compiled(dense if name == "dense" else gated, "packed" if name == "packed" else "masked")
        try:
            compiling[name] = seconds_of(run, batches[0])
            run(batches[-1])
            slowest = max(slowest, seconds_of(run, batches[0]))
            runs[name] = run
        except Exception as error:  # out of memory, say: the others go on
            failures[name] = message(error)
    entry = {"compile_seconds": rounded(compiling), **({"failures": failures} if failures else {})}
    if not runs:
        return entry
    calls = int(min(MANY, max(TURN / slowest, FEW if FEW * slowest < 5 * TURN else 1)))
    order = [batches[index % len(batches)] for index in range(calls)]
    used = order[: len(batches)]
    if "packed" in runs:
        outputs = {name: outputs_of(runs[name], used) for name in NAMES[1:] if name in runs}
        entry["macs_share"] = round(float(np.mean(outputs["packed"]["macs"])) / dense.dense_macs, 4)
        entry |= {"agreement": agreement(outputs)} if "masked" in outputs else {}
    functions = {name: lambda run=run: [run(batch) for batch in order] and None for name, run in runs.items()}
    seconds = time_in_turns(functions, arguments["rounds"])
    milliseconds = {name: 1000 * each / calls for name, each in seconds.items()}
    entry |= {"calls": calls, "milliseconds": rounded(milliseconds)}
    if "dense" in milliseconds:
        entry["over_dense"] = rounded({name: each / milliseconds["dense"] for name, each in milliseconds.items()})
        entry["images_per_second"] = {name: round(1000 * size / each, 1) for name, each in milliseconds.items()}
    return entry


def compiled(model, execution):
    """A function of a batch on the device that returns the model's outputs when they are there."""
    if BACKEND == "jax":
        import jax

        state = [[variable.value for variable in group] for group in split_variables(model)]
        run = jax.jit(lambda state, images: model.stateless_call(*state, images, training=False)[0])

        def call(images):
            return jax.block_until_ready(run(state, images))

    elif BACKEND == "torch":
        import torch

        def call(images):
            with torch.no_grad():
                outputs = model(images, training=False)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return outputs

    else:
        import tensorflow as tf

        run = tf.function(lambda images: model(images, training=False), jit_compile=model.jit_compile)

        def call(images):
            outputs = run(images)
            outputs["logits"].numpy()
            return outputs

    def with_execution(images):
        model.execution = execution  # of a trace, or of each call where there is none
        return call(images)

    return with_execution


def split_variables(model):
    return model.trainable_variables, model.non_trainable_variables


def outputs_of(run, batches):
    """Logits, decisions and MACs of all batches, as arrays."""
    found = [run(batch) for batch in batches]
    keys = ("logits", "macs", *POLICY_KEYS)
    return {key: np.concatenate([ops.convert_to_numpy(each[key]) for each in found]) for key in keys}


def agreement(outputs):
    """How far packed logits are from masked ones, and how many decisions are the same."""
    masked, packed = outputs["masked"], outputs["packed"]
    same = [(masked[key] == packed[key]).ravel() for key in POLICY_KEYS]
    alike = np.all([(masked[key] == packed[key]).reshape(len(masked[key]), -1).all(axis=1) for key in POLICY_KEYS], 0)
    difference = np.abs(masked["logits"].astype("float64") - packed["logits"])
    return {
        "largest_logit": float(np.abs(masked["logits"]).max()),
        "largest_difference": float(difference.max()),
        "largest_difference_same_decisions": float(difference[alike].max()) if alike.any() else None,
        "equal_decisions": float(np.concatenate(same).mean()),
        "images_of_equal_decisions": float(alike.mean()),
        "same_top1": float((masked["logits"].argmax(-1) == packed["logits"].argmax(-1)).mean()),
    }


def measure_training(precision, arguments):
    """Times of a training step of the dense and the gated model, of the preset's width and depth."""
    preset, size = find_preset(arguments["preset"]), arguments["train_batch"]
    sizes = {"width": preset.width, "depth": preset.depth, "num_heads": preset.num_heads}
    given = training.Arguments(arguments["image_size"], batch_size=size, **sizes)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size, given.image_size, given.image_size, 3)).astype("float32")
    images = ops.convert_to_tensor(images)
    labels = rng.integers(0, 100, size)
    with dtype_policy(precision):
        models = {"dense": training.build(given, None), "gated": training.build(given, ka.GateConfig())}
        steps = {name: lambda model=model: training.train(model, images, labels, 1) for name, model in models.items()}
        compiling = {name: seconds_of(step) for name, step in steps.items()}
        milliseconds = {name: 1000 * each for name, each in time_in_turns(steps, 2 * arguments["rounds"]).items()}
    return {
        **sizes,
        "compile_seconds": rounded(compiling),
        "milliseconds": rounded(milliseconds),
        "over_dense": rounded({"gated": milliseconds["gated"] / milliseconds["dense"]}),
    }


def seconds_of(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def rounded(values):
    return {name: round(value, 4) for name, value in values.items()}


def message(error):
    """The error's kind and the beginning of what it says."""
    return f"{type(error).__name__}: {error}"[:600]


if __name__ == "__main__":
    main()
