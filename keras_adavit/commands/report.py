"""Writes a page about a model: what it costs at several budgets, what it uses, and on which images."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tyro
from rich.console import Console

from keras_adavit.commands.arguments import parse
from keras_adavit.commands.evaluate import find_data
from keras_adavit.commands.evaluation_arguments import Budgets
from keras_adavit.data.image_folder import name_bad_images
from keras_adavit.errors import InputError, printable
from keras_adavit.evaluation.budgets import BATCH, TURNS
from keras_adavit.evaluation.evaluate import check_data
from keras_adavit.evaluation.page import render
from keras_adavit.evaluation.report import make_report
from keras_adavit.evaluation.tables import backend_prefix
from keras_adavit.files import check_writable, make_folder, write_text
from keras_adavit.models.saved import load_model
from keras_adavit.settings import BatchSize, PositiveInt, settings

PAGE = "report.html"
TIMED = 64  # images of a turn


@settings(kw_only=True)
class Arguments:
    """Writes one page about a model, that needs no network: accuracy against MACs and time at several budgets, usage by
    block and head, the cheapest and dearest images, classes by cost, what goes wrong when cheap, how to reproduce it.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """The model, a .keras file, or the folder of a run, whose last adaptive model it is then."""
    out: Path
    """Folder to write report.html to; made if it is missing."""
    data: Path | None = None
    """A recipe (.py), or a folder of images with `train` and `val`; the recipe beside the model if not given."""
    macs: Budgets = ()
    """Budgets, up to 1 as shares of the dense model's MACs; those of 0.3 0.4 0.5 0.6 0.8 that are in reach if not
    given. The model file stays as it is."""
    calibration_images: PositiveInt = 256
    """How many training images, at most, the thresholds are fitted to for each budget; most of the time is theirs."""
    batch_size: BatchSize = 128
    """Images in a batch; speed is measured in batches of 32."""
    time: bool = True
    """Measure speed too."""


def main(arguments):
    """Runs the command; raises `InputError`."""
    given = parse(Arguments, prog="keras-adavit report", args=arguments)
    path = find_model(given.model)
    check_place(given.out)
    if given.data is not None and given.data.suffix != ".py" and not given.data.is_dir():
        raise InputError(f"`--data` must be a recipe (.py) or a folder of images. Received: {given.data}")
    model = load_model(path)
    if model.backbone.gates is None:
        raise InputError(f"The model must have gates, to have something to report. Received: {path}, which has none")
    splits = find_data(model, path, given.data).load(given.batch_size, seed=0)
    check_data(model, splits, splits.validation.element_spec[0].shape[1:])
    with name_bad_images(splits):
        some = splits.calibration.unbatch().take(given.calibration_images).batch(given.batch_size).cache()
        timed = None
        if given.time:
            timed = np.stack([image for image, _ in splits.validation.unbatch().take(TIMED).as_numpy_iterator()])
        found = make_report(model, splits.validation, some, given.macs, timed)
    facts = {
        "name": printable(given.model),
        "command": command_line(arguments),
        "reproduce": describe(path, splits, given),
    }
    make_folder(given.out)
    write_text(given.out / PAGE, render(found, facts, splits.class_names, splits.preprocessing))
    Console().print(f"Wrote {given.out / PAGE}", highlight=False, soft_wrap=True, markup=False)
    return 0


def find_model(path):
    """The model that a path speaks of: a file, or that of a run."""
    if not path.is_dir():
        return path
    last = path / "adaptive" / "last.keras"
    if not last.is_file():
        raise InputError(
            "The model must be a .keras file, or the folder of a run with adaptive/last.keras. "
            f"Received: {printable(path)}"
        )
    return last


def check_place(folder):
    """Raises `InputError` unless the page can be written to a folder, before anything is computed."""
    above = folder
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise InputError(f"`--out` must be a folder, or a name for a new one. Received: {folder}; {above} is none")
    if (folder / PAGE).is_dir():
        raise InputError(f"`--out` must have room for a file {PAGE}. Received: {folder}, where that is a folder")
    check_writable(above / PAGE)


def command_line(arguments):
    """What a user types to make the page again."""
    return f"{backend_prefix()}keras-adavit report {shlex.join(arguments)}"


def describe(path, splits, given):
    """What the page depends on: a dict from a heading to text."""
    times = f"medians of {TURNS} turns over {TIMED} images in batches of {BATCH}" if given.time else "not measured"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "Model": f"{printable(path)}, SHA-256 {digest}",
        "Images": f"{splits.validation_examples} validation images of {len(splits.class_names)} classes",
        "Thresholds": f"fitted to {given.calibration_images} training images, or all if they are fewer",
        "Times": times,
        "Software": f"keras-adavit {importlib.metadata.version('keras-adavit')}, "
        f"Keras {keras.__version__} on {keras.config.backend()}, Python {platform.python_version()}",
        "Machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
        "Date": datetime.date.today().isoformat(),
    }


def processor():
    """The processor's name where Linux says it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
