"""A training recipe: frozen dataclasses, read from a short Python file and overridden on the command line."""

import dataclasses
from typing import Literal

from keras_adavit.data.sources import Source
from keras_adavit.errors import InputError
from keras_adavit.gating.config import GateConfig
from keras_adavit.gating.external import RandomPolicy
from keras_adavit.gating.merging import MergePolicy
from keras_adavit.gating.top_k import TopKPolicy
from keras_adavit.models.presets import find_preset
from keras_adavit.settings import (
    BatchSize,
    FileName,
    FolderName,
    ImageSize,
    NonNegativeFloat,
    PositiveFloat,
    PositiveShare,
    Rate,
    Seed,
    Share,
    settings,
    whole,
)
from keras_adavit.training.budget import BudgetLoss
from keras_adavit.training.distillation import DistillationLoss

Width = whole(1, 65_536)
Depth = whole(1, 1_000)
Epochs = whole(0, 100_000)  # so many that the number of steps stays within 31 bits
Count = whole(1, 100_000)

# Sizes of a model that neither a preset nor a recipe gives: those of DeiT-S.
DEFAULT_SIZES = {
    "patch_size": 16,
    "width": 384,
    "depth": 12,
    "num_heads": 6,
    "mlp_ratio": 4.0,
    "positions": "learned",
    "stem": "patch",
}


@settings
class Model:
    """A published model by name, or sizes of one; image size and channels come from the data."""

    preset: str | None = None
    """Name of a published model, such as ada_deit_small_patch16_224; the sizes below are then its own."""
    weights: FileName | None = None
    """Weights to start from: imagenet for the published ones of the preset's dense model, or a file: the .pth
    of a dense model, a .safetensors of timm or Hugging Face, a .keras of this library. Positions of another image size
    are interpolated; another number of classes gets a new classifier."""
    patch_size: ImageSize | None = None
    """Side of a patch in pixels; must divide the image size. 16 without a preset."""
    width: Width | None = None
    """Width of a token; a multiple of `num_heads`. 384 without a preset."""
    depth: Depth | None = None
    """Blocks. 12 without a preset."""
    num_heads: Width | None = None
    """Attention heads of a block. 6 without a preset."""
    mlp_ratio: PositiveFloat | None = None
    """Hidden width of the MLPs over `width`. 4 without a preset."""
    positions: Literal["learned", "sinusoid"] | None = None
    """Position embeddings. Learned without a preset."""
    stem: Literal["patch", "conv"] | None = None
    """One linear layer of every patch, or a few convolutions, which learn faster; patch without a preset."""

    def __post_init__(self):
        given = [name for name in DEFAULT_SIZES if getattr(self, name) is not None]
        if self.preset is not None:
            find_preset(self.preset, "preset")
            if given:
                raise InputError(
                    f"`{given[0]}` must not be given with a `preset`, which has its own. "
                    f"Received: {given[0]}={getattr(self, given[0])!r}, preset={self.preset!r}"
                )
        elif self.weights == "imagenet":
            raise InputError("`weights='imagenet'` needs a `preset`. Received: preset=None")

    def backbone_arguments(self):
        """Arguments of `AdaViTBackbone` apart from image size, channels and gates: a dict.

        The adaptive model has the positions of the dense one whose weights it starts from.
        """
        if self.preset is not None:
            return find_preset(self.preset).backbone_arguments(gated=False)
        given = {name: getattr(self, name) for name in DEFAULT_SIZES}
        return {name: DEFAULT_SIZES[name] if value is None else value for name, value in given.items()}


@settings
class Training:
    """What all trainings have in common."""

    epochs: Epochs = 10
    """Passes over the training images; 0 leaves this training out."""
    learning_rate: PositiveFloat = 5e-4
    """Peak of the learning rate, after warm-up and before the cosine decay."""
    final_learning_rate: NonNegativeFloat = 1e-5
    """Learning rate at the end."""
    first_learning_rate: NonNegativeFloat = 0.0
    """Learning rate at the beginning of the warm-up."""
    reference_batch: BatchSize | None = None
    """Batch size that the learning rates are meant for: they are multiplied by the images of an update over it; as
    they are if not given."""
    warmup: Rate = 0.1
    """Share of the training that warms up, in [0, 1)."""
    cooldown: Rate = 0.0
    """Share of the training, at its end, that has the final learning rate, in [0, 1)."""
    step_every_epoch: bool = False
    """Change the learning rate from epoch to epoch and not within one."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay; of no bias, normalisation, class token, position or gate."""
    epsilon: PositiveFloat = 1e-7
    """Added to the root of AdamW's second moment."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of one variable's gradient."""
    global_clip_norm: PositiveFloat | None = None
    """Largest norm of all gradients together; needs `clip_norm` None."""
    accumulate: Count = 1
    """Batches whose mean gradient makes one update of the weights."""
    average: Rate | None = None
    """Momentum an update of the moving average of the weights, such as 0.999, which is then what is evaluated and
    saved; no average if not given."""
    patience: Count | None = None
    """Epochs without a better validation accuracy after which the training ends early; never if not given."""
    label_smoothing: Rate = 0.0
    """Share of the label given to all classes, in [0, 1)."""

    def __post_init__(self):
        if self.warmup + self.cooldown > 1:
            raise InputError(
                "`cooldown` must leave the share of `warmup`: together at most 1. "
                f"Received: cooldown={self.cooldown}, warmup={self.warmup}"
            )
        if self.clip_norm is not None and self.global_clip_norm is not None:
            raise InputError(
                "`global_clip_norm` must come with `clip_norm=None`. "
                f"Received: clip_norm={self.clip_norm}, global_clip_norm={self.global_clip_norm}"
            )


@settings
class BlockTraining(Training):
    """What the training of the dense model and that of the adaptive one have in common."""

    layer_decay: PositiveShare = 1.0
    """Learning rate of a block over that of the next one, in (0, 1]; 1 is the same for all."""
    drop_path: Rate = 0.0
    """Largest drop-path probability, in [0, 1); only where no gate decides."""


@settings
class DenseTraining(BlockTraining):
    """Training of the dense model."""

    patch_dropout: Rate = 0.0
    """Share of the patches that each step leaves out, by chance, in [0, 1)."""


@settings
class AdaptiveTraining(BlockTraining):
    """Training of the adaptive model."""

    train: Literal["all", "gates"] = "all"
    """What is trained: all weights, or the gates alone, the rest staying as the dense model's."""
    gate_learning_rate: PositiveFloat | None = None
    """Peak of the gates' own learning rate; the same as of the rest if not given."""
    token_gate_scale: PositiveFloat = 1.0
    """Learning rate of token gates over that of gates."""
    head_gate_scale: PositiveFloat = 1.0
    """Learning rate of head gates over that of gates."""
    block_gate_scale: PositiveFloat = 1.0
    """Learning rate of block gates over that of gates."""
    decay_gates: bool = False
    """Decay the gates' kernels too, as published."""
    budget_ramp: Share = 0.4
    """Share of the training over which the budget's targets fall from 1 to their values, in [0, 1]."""
    final_temperature: PositiveFloat | None = None
    """Temperature of the gates at the end, reached linearly; constant if not given."""
    calibrate: bool = False
    """After the training, shift the gates' thresholds until training images cost what `budget.macs_target` asks for;
    `last.keras` is then the shifted model."""
    policy: RandomPolicy | TopKPolicy | MergePolicy | None = None
    """Decides in training in the place of the gates, which then learn nothing."""


@settings
class Recipe:
    """What is trained, on what, and how: first the dense model, then the adaptive one from its weights.

    A dense model that starts from `model.weights` may first train its classifier alone.
    """

    name: FolderName
    """Name of the run's folder."""
    data: Source
    """Where the images come from."""
    model: Model = dataclasses.field(default_factory=Model)
    """The model."""
    gates: GateConfig = dataclasses.field(default_factory=GateConfig)
    """What is gated."""
    budget: BudgetLoss = dataclasses.field(default_factory=BudgetLoss)
    """What the adaptive model may use."""
    classifier: Training = dataclasses.field(default_factory=lambda: Training(epochs=0))
    """Training of the dense model's classifier alone, its other weights staying as `model.weights` gave them."""
    dense: DenseTraining = dataclasses.field(default_factory=DenseTraining)
    """Training of the dense model."""
    adaptive: AdaptiveTraining = dataclasses.field(default_factory=AdaptiveTraining)
    """Training of the adaptive model."""
    distillation: DistillationLoss | None = None
    """How the adaptive model is also taught by the dense one; not if not given."""
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
    devices: Count | Literal["all"] = 1
    """Devices of each host that share each batch. On torch one; on TensorFlow several do without XLA, float16 and
    `accumulate`."""
    output: FileName | None = None
    """Folder of the results, new or empty; `runs/NAME`, or with a number behind it, if not given."""
    checkpoint_minutes: PositiveFloat = 10.0
    """Minutes between two checkpoints within an epoch; there is one after each epoch too."""
    smoke: bool = False
    """Try the recipe out: one epoch of five steps each."""

    def __post_init__(self):
        target = self.budget.macs_target
        if self.adaptive.calibrate and not isinstance(target, int | float):
            raise InputError(
                f"`adaptive.calibrate` needs `budget.macs_target`, a number. Received: macs_target={target!r}"
            )
        start = self.dense_model is not None or self.model.weights is not None
        if self.dense_model is not None and self.model.weights is not None:
            raise InputError(
                "`dense_model`, which is trained, must come without `model.weights`, which a training starts from. "
                f"Received: dense_model={self.dense_model!r}, weights={self.model.weights!r}"
            )
        if not start and self.dense.epochs == 0:
            raise InputError("`dense.epochs` must be 1 or more without `model.weights` or a `dense_model`. Received: 0")
        if self.classifier.epochs and self.model.weights is None:
            raise InputError(
                "`classifier.epochs` must be 0 without `model.weights`: all else would stay random. "
                f"Received: epochs={self.classifier.epochs}, weights=None"
            )
