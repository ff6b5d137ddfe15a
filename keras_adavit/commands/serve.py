"""Serves a model over HTTP."""

import importlib.util
import os
import socket
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from keras_adavit.commands.arguments import parse
from keras_adavit.commands.evaluation_arguments import Budgets
from keras_adavit.data.photo_files import find_photos
from keras_adavit.errors import InputError, printable
from keras_adavit.evaluation.predict import read_photos
from keras_adavit.models.saved import load_model
from keras_adavit.settings import BatchSize, NonNegativeFloat, PositiveInt, settings, whole

CALIBRATION_PHOTOS = 256  # at most; a few hundred are enough for a budget within 1 %
NEEDED = ("starlette", "uvicorn", "prometheus_client", "python_multipart", "PIL")  # what the extra `serve` installs


@settings(kw_only=True)
class Arguments:
    """Answers photos over HTTP: which classes, what they cost, which patches were kept.

    POST /predict takes JPEG and PNG files as a form; / is a page to drop a photo on; /health and /metrics are for
    machines. Ctrl-C ends it.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """The model: a .keras file, or an ONNX file that `export --format onnx --preprocessing` wrote."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of the machine's."""
    port: whole(0, 65535) = 8000
    """Port to listen on; 0 takes a free one."""
    macs: Budgets = ()
    """Budgets that requests may ask for, as `?macs=0.3`: up to 1 shares of the dense model's MACs. Needs `--data`."""
    data: Path | None = None
    """With `--macs`, a folder of photos, at any depth, to fit the gates' thresholds to."""
    max_batch: BatchSize = 32
    """Most photos computed together."""
    wait: NonNegativeFloat = 5.0
    """Milliseconds that a photo waits for others."""
    max_megabytes: PositiveInt = 32
    """Most megabytes of a request."""
    max_megapixels: PositiveInt = 50
    """Most million pixels of a photo."""

    def __post_init__(self):
        if bool(self.macs) != (self.data is not None):
            raise InputError("`--macs` and `--data` must be given together. Received: one of them")
        if self.macs and self.model.suffix == ".onnx":
            raise InputError(f"`--macs` needs a .keras model, whose thresholds can move. Received: {self.model}")


def main(arguments):
    """Runs the command until it is interrupted; raises `InputError`."""
    given = parse(Arguments, prog="keras-adavit serve", args=arguments)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f'`serve` needs {missing[0]}: pip install "keras-adavit[serve]". Received: no {missing[0]}')
    import uvicorn

    from keras_adavit.serving.app import Limits, make_app

    with listen(given.host, given.port) as listening:
        engine = make_engine(given)
        sizes = given.max_megabytes * 10**6, given.max_megapixels * 10**6
        app = make_app(engine, Limits(given.max_batch, given.wait / 1000, *sizes))
        print(f"Serving {printable(given.model)} on http://{given.host}:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def make_engine(given):
    """The engine of the model, with its budgets, warm: the first request shall not wait for compilers."""
    from keras_adavit.serving.engines import KerasEngine, OnnxEngine

    if given.model.suffix == ".onnx":
        if not os.path.isfile(given.model):
            raise InputError(f"The model must be an existing file. Received: {printable(given.model)}")
        engine = OnnxEngine(given.model)
    else:
        model = load_model(given.model)
        engine = KerasEngine(model)
        images = calibration_images(given.data, model) if given.macs else None
        for macs in sorted(set(given.macs)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the line below says how near it came
                share = engine.add_budget(macs, images)
            print(f"Budget {macs}: {share:.3f} of the dense model's MACs", flush=True)
    channels = len(engine.preprocessing.mean)
    for count in (1, 2):
        engine.run(np.zeros((count, engine.image_size, engine.image_size, channels), "float32"))
    return engine


def calibration_images(folder, model):
    """Photos of a folder, evenly spaced among all, as the model takes them: an array (N, S, S, C)."""
    files = find_photos([folder])
    chosen = np.unique(np.linspace(0, len(files) - 1, CALIBRATION_PHOTOS).astype(int))
    return np.concatenate(list(read_photos([files[index] for index in chosen], model)))


def listen(host, port):
    """A socket that listens; raises `InputError` where that is not possible."""
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # Python adds the address once more
        raise InputError(
            f"`--host` and `--port` must be an address of this machine and a free port. "
            f"Received: {host}:{port} ({reason})"
        ) from error
