"""A training recipe: frozen dataclasses, read from a short Python file and overridden on the command line."""

import dataclasses
import difflib
import pprint
import runpy
import traceback
from pathlib import Path
from typing import Literal

from keras_adavit.data.augment import Augment
from keras_adavit.data.sources import Digits, ImageFolder, Source, Tfds
from keras_adavit.errors import InputError
from keras_adavit.files import write_text
from keras_adavit.gating.config import GateConfig
from keras_adavit.settings import (
    BatchSize,
    FileName,
    FolderName,
    ImageSize,
    NonNegativeFloat,
    PositiveFloat,
    Rate,
    Seed,
    Share,
    settings,
    shorten,
    whole,
)
from keras_adavit.training.budget import BudgetLoss

Width = whole(1, 65_536)
Depth = whole(1, 1_000)
Epochs = whole(1, 100_000)  # so many that the number of steps stays within 31 bits


@settings
class Model:
    """Sizes of the vision transformer; image size and channels come from the data."""

    patch_size: ImageSize = 16
    """Side of a patch in pixels; must divide the image size."""
    width: Width = 384
    """Width of a token; a multiple of `num_heads`."""
    depth: Depth = 12
    """Blocks."""
    num_heads: Width = 6
    """Attention heads of a block."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the MLPs over `width`."""
    positions: Literal["learned", "sinusoid"] = "learned"
    """Position embeddings."""


@settings
class Training:
    """What the training of the dense model and that of the adaptive one have in common."""

    epochs: Epochs = 10
    """Passes over the training images."""
    learning_rate: PositiveFloat = 5e-4
    """Peak of the learning rate, after warm-up and before the cosine decay."""
    final_learning_rate: NonNegativeFloat = 1e-5
    """Learning rate at the end."""
    warmup: Rate = 0.1
    """Share of the training that warms up, in [0, 1)."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of one variable's gradient."""
    label_smoothing: Rate = 0.0
    """Share of the label given to all classes, in [0, 1)."""
    drop_path: Rate = 0.0
    """Largest drop-path probability, in [0, 1); only where no gate decides."""


@settings
class DenseTraining(Training):
    """Training of the dense model."""

    patch_dropout: Rate = 0.0
    """Share of the patches that each step leaves out, by chance, in [0, 1)."""


@settings
class AdaptiveTraining(Training):
    """Training of the adaptive model."""

    gate_learning_rate: PositiveFloat | None = None
    """Peak of the gates' own learning rate; the same as of the rest if not given."""
    budget_ramp: Share = 0.4
    """Share of the training over which the budget's targets fall from 1 to their values, in [0, 1]."""
    final_temperature: PositiveFloat | None = None
    """Temperature of the gates at the end, reached linearly; constant if not given."""


@settings
class Recipe:
    """What is trained, on what, and how: first the dense model, then the adaptive one from its weights."""

    name: FolderName
    """Name of the run's folder."""
    data: Source
    """Where the images come from."""
    model: Model = dataclasses.field(default_factory=Model)
    """Sizes of the model."""
    gates: GateConfig = dataclasses.field(default_factory=GateConfig)
    """What is gated."""
    budget: BudgetLoss = dataclasses.field(default_factory=BudgetLoss)
    """What the adaptive model may use."""
    dense: DenseTraining = dataclasses.field(default_factory=DenseTraining)
    """Training of the dense model."""
    adaptive: AdaptiveTraining = dataclasses.field(default_factory=AdaptiveTraining)
    """Training of the adaptive model."""
    batch_size: BatchSize = 128
    """Images in a batch."""
    seed: Seed = 0
    """Seed of weights, order, augmentation and noise."""
    dense_model: FileName | None = None
    """A trained dense model (.keras) to start from instead of training one."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Precision of the computation; weights stay in float32."""
    xla: bool | None = None
    """Compile with XLA on TensorFlow and JAX; Keras decides if not given (on TensorFlow only with a GPU)."""
    output: FileName | None = None
    """Folder of the results, new or empty; `runs/NAME`, or with a number behind it, if not given."""
    smoke: bool = False
    """Try the recipe out: one epoch of five steps each."""


RECIPE_TYPES = (
    AdaptiveTraining,
    Augment,
    BudgetLoss,
    DenseTraining,
    Digits,
    GateConfig,
    ImageFolder,
    Model,
    Recipe,
    Tfds,
)


def load_recipe(path):
    """Reads the variable `recipe` of a Python file.

    Args:
        path: The file.

    Returns:
        A `Recipe`.

    Raises:
        InputError: If there is no such file, or it does not define a recipe.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(str(path), [str(other) for other in path.parent.glob("*.py")], n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"The recipe must be a Python file{hint}. Received: {path}, which is no file")
    try:
        recipe = runpy.run_path(str(path)).get("recipe")
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        place = f"The recipe {path}{find_line(error, str(path))}"
        if isinstance(error, InputError):
            raise InputError(f"{place}: {error}") from error
        reason = " ".join(traceback.format_exception_only(error)[-1].split())
        raise InputError(f"{place} must be Python that runs. Received: {reason}") from error
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path} must define `recipe = Recipe(...)`. Received: recipe={shorten(recipe)}")
    return recipe


def find_line(error, path):
    """Where in a file an error came from, such as ", line 3,"; nothing if that is not known."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path and error.lineno:
        lines.append(error.lineno)
    return f", line {lines[-1]}," if lines else ""


def recipe_folder():
    """Where the recipes of this package are: in an installed package, or in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names():
    """Names of the recipes that come with this package."""
    return sorted(path.stem for path in recipe_folder().glob("*.py"))


def find_recipe(name):
    """The file of a recipe: `name` itself, or that of a recipe of this package."""
    return recipe_folder() / f"{name}.py" if name in recipe_names() and not Path(name).is_file() else Path(name)


def save_recipe(recipe, path):
    """Writes a recipe as a Python file that `load_recipe` reads."""
    names = ", ".join(cls.__name__ for cls in RECIPE_TYPES)
    source = f'"""The recipe as it ran."""\n\nfrom keras_adavit.experiments.recipe import {names}  # noqa: F401\n\n'
    write_text(path, f"{source}recipe = {pprint.pformat(recipe, width=100, sort_dicts=False)}\n")
