"""A training recipe: frozen dataclasses, read from a short Python file and overridden on the command line."""

import dataclasses
import difflib
import pprint
import runpy
from pathlib import Path
from typing import Literal

from keras_adavit.data.augment import Augment
from keras_adavit.data.sources import Digits, ImageFolder, Source, Tfds
from keras_adavit.errors import InputError
from keras_adavit.files import write_text
from keras_adavit.gate_config import GateConfig
from keras_adavit.training.budget import BudgetLoss


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes of the vision transformer; image size and channels come from the data."""

    patch_size: int = 16
    """Side of a patch in pixels; must divide the image size."""
    width: int = 384
    """Width of a token; a multiple of `num_heads`."""
    depth: int = 12
    """Blocks."""
    num_heads: int = 6
    """Attention heads of a block."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLPs over `width`."""
    positions: Literal["learned", "sinusoid"] = "learned"
    """Position embeddings."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What the training of the dense model and that of the adaptive one have in common."""

    epochs: int = 10
    """Passes over the training images."""
    learning_rate: float = 5e-4
    """Peak of the learning rate, after warm-up and before the cosine decay."""
    final_learning_rate: float = 1e-5
    """Learning rate at the end."""
    warmup: float = 0.1
    """Share of the training that warms up, in [0, 1)."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    clip_norm: float | None = 1.0
    """Largest norm of one variable's gradient."""
    label_smoothing: float = 0.0
    """Share of the label given to all classes, in [0, 1)."""
    drop_path: float = 0.0
    """Largest drop-path probability, in [0, 1); only where no gate decides."""

    def __post_init__(self):
        for name in ("epochs", "learning_rate"):
            if getattr(self, name) <= 0:
                raise InputError(f"`{name}` must be positive. Received: {name}={getattr(self, name)}")
        for name in ("warmup", "label_smoothing", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"`{name}` must be in [0, 1). Received: {name}={getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class DenseTraining(Training):
    """Training of the dense model."""

    patch_dropout: float = 0.0
    """Share of the patches that each step leaves out, by chance, in [0, 1)."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.patch_dropout < 1:
            raise InputError(f"`patch_dropout` must be in [0, 1). Received: patch_dropout={self.patch_dropout}")


@dataclasses.dataclass(frozen=True)
class AdaptiveTraining(Training):
    """Training of the adaptive model."""

    gate_learning_rate: float | None = None
    """Peak of the gates' own learning rate; the same as of the rest if not given."""
    budget_ramp: float = 0.4
    """Share of the training over which the budget's targets fall from 1 to their values, in [0, 1]."""
    final_temperature: float | None = None
    """Temperature of the gates at the end, reached linearly; constant if not given."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.budget_ramp <= 1:
            raise InputError(f"`budget_ramp` must be in [0, 1]. Received: budget_ramp={self.budget_ramp}")
        for name in ("gate_learning_rate", "final_temperature"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"`{name}` must be positive. Received: {name}={value}")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and how: first the dense model, then the adaptive one from its weights."""

    name: str
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
    batch_size: int = 128
    """Images in a batch."""
    seed: int = 0
    """Seed of weights, order, augmentation and noise."""
    dense_model: str | None = None
    """A trained dense model (.keras) to start from instead of training one."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Precision of the computation; weights stay in float32."""
    xla: bool | None = None
    """Compile with XLA on TensorFlow and JAX; Keras decides if not given (on TensorFlow only with a GPU)."""
    output: str | None = None
    """Folder of the results, new or empty; `runs/NAME`, or with a number behind it, if not given."""
    smoke: bool = False
    """Try the recipe out: one epoch of five steps each."""

    def __post_init__(self):
        if self.batch_size < 1:
            raise InputError(f"`batch_size` must be positive. Received: batch_size={self.batch_size}")


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
    except InputError:
        raise
    except (SyntaxError, UnicodeDecodeError, ValueError, TypeError, NameError, ImportError) as error:
        raise InputError(
            f"The recipe {path} must be Python that runs. Received: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path} must define `recipe = Recipe(...)`. Received: recipe={recipe!r}")
    return recipe


def save_recipe(recipe, path):
    """Writes a recipe as a Python file that `load_recipe` reads."""
    names = ", ".join(cls.__name__ for cls in RECIPE_TYPES)
    source = f'"""The recipe as it ran."""\n\nfrom keras_adavit.recipe import {names}  # noqa: F401\n\n'
    write_text(path, f"{source}recipe = {pprint.pformat(recipe, width=100, sort_dicts=False)}\n")
