"""What the command `evaluate` is asked for."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_adavit.errors import InputError
from keras_adavit.gating.external import OpenPolicy, RandomPolicy
from keras_adavit.gating.merging import MergePolicy
from keras_adavit.gating.top_k import TopKPolicy
from keras_adavit.settings import BatchSize, NonNegativeInt, PositiveFloat, PositiveInt, Seed, Share, Words, settings

# Which policies an option belongs to.
POLICIES_OF_OPTIONS = {
    "token_usage": ("random", "topk"),
    "head_usage": ("random",),
    "block_usage": ("random",),
    "seed": ("random",),
    "merged": ("merge",),
}
# What an option does not go with, and the words for it.
APART = {
    "images": ("{0} needs a data set, `--images` is none", ("data", "macs", "milliseconds", "analyze", "compare")),
    "macs": ("`--macs` prints the learned policy at several budgets, without {0}", ("policy", "analyze", "picture")),
    "milliseconds": (
        "`--milliseconds` prints the learned policy at several budgets, without {0}",
        ("macs", "policy", "analyze", "picture"),
    ),
    "compare": (
        "`--compare` prints what the learned policy is worth, without {0}",
        ("policy", "macs", "milliseconds", "analyze", "picture"),
    ),
    "time": (
        "`--time` measures the learned policy, masked and packed, without {0}",
        ("policy", "execution", "macs", "milliseconds", "compare", "analyze", "picture"),
    ),
}

Images = Annotated[tuple[Path, ...], Words("paths of image files and folders")]
Budgets = Annotated[tuple[PositiveFloat, ...], Words("positive numbers")]


@settings(kw_only=True)
class Arguments:
    """Prints top-1, top-5, loss, MACs and the usage of every block of a model on its validation images.

    With `--images` it says what images without labels are, and what each costs.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """The model, a .keras file."""
    data: Path | None = None
    """A recipe (.py), or a folder of images with `train` and `val`, or of shards, or tfds:NAME, what a data set of
    TensorFlow Datasets holds out, such as tfds:imagenet_v2; the recipe beside the model if not given. A folder of class
    folders alone is split as the run's was."""
    images: Images = ()
    """Instead of a data set, image files and folders of some: prints the most probable classes of each."""
    picture: Path | None = None
    """File (.png) to draw in what each block kept, of the first 6 validation images, or 12 of `--images`."""
    json: Path | None = None
    """File to write the figures to."""
    batch_size: BatchSize | None = None
    """Images in a batch; if not given 128, with `--time` and `--milliseconds` 32."""
    policy: Literal["learned", "random", "open", "topk", "merge"] = "learned"
    """What decides: the model's gates, chance at the usages below, or nothing: everything is used. Of any model, gated
    or not: topk, patches that the class token attends to most go on; merge, patches that are alike go on as one."""
    token_usage: Share | None = None
    """With `--policy random`, the share of patches used in gated blocks, in [0, 1]; all if not given. With `--policy
    topk`, the share that goes on at 1/4, 1/2 and 3/4 of the depth, above 0; 0.7 if not given."""
    head_usage: Share | None = None
    """With `--policy random`, the share of heads used in gated blocks, in [0, 1]; all if not given."""
    block_usage: Share | None = None
    """With `--policy random`, the share of sub-layers (attention, MLP) used, in [0, 1]; all if not given."""
    seed: Seed | None = None
    """With `--policy random`, the seed of the draw; 0 if not given."""
    merged: NonNegativeInt | None = None
    """With `--policy merge`, patches merged after each block but the last; 8 if not given."""
    execution: Literal["masked", "packed"] = "masked"
    """Compute everything and multiply the skipped part away, or only what is kept; the figures are the same."""
    macs: Budgets = ()
    """Budgets, up to 1 as shares of the dense model's MACs, such as 0.3 0.5 0.7: for each, shifts the gates' thresholds
    so that it is met on the images, and prints the curve. The model file stays as it is."""
    milliseconds: Budgets = ()
    """As `--macs`, but budgets of time: milliseconds an image of the packed model on this machine, such as 1.5 2."""
    calibration_images: PositiveInt = 1024
    """With `--macs` and `--milliseconds`, how many of the images, at most, the thresholds are fitted to."""
    compare: bool = False
    """Compare the gates' decisions with the same ones for all images, and with those of another image: gates that look
    at the image are right more often."""
    dense_model: Path | None = None
    """With `--compare`, a dense model (.keras), whose loss says how hard an image is; the run's own if not given."""
    time: bool = False
    """Instead of the figures, images a second: dense, masked and packed, in turns on the same images."""
    analyze: Path | None = None
    """File (.npz) to write each image's label, prediction, MACs and policy to; prints MACs by class too."""

    def __post_init__(self):
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, policies in POLICIES_OF_OPTIONS.items():
            if getattr(self, name) is not None and self.policy not in policies:
                needed = " or ".join(f"`--policy {policy}`" for policy in policies)
                raise InputError(f"{option_name(name)} needs {needed}. Received: --policy {self.policy}")
        if self.policy == "topk" and self.token_usage == 0:
            raise InputError("`--token-usage` must be above 0 with `--policy topk`. Received: 0")
        if self.policy == "random" and self.token_usage is self.head_usage is self.block_usage is None:
            raise InputError(
                "`--policy random` needs one of `--token-usage`, `--head-usage` and `--block-usage`. Received: none"
            )
        for name, (why, others) in APART.items():
            for other in others:
                if getattr(self, name) and getattr(self, other) != defaults[other]:
                    raise InputError(f"{why.format(option_name(other))}. Received: both")
        if self.dense_model is not None and not self.compare:
            raise InputError(f"`--dense-model` needs `--compare`. Received: --dense-model {self.dense_model}")

    @property
    def images_in_batch(self):
        """Images in a batch."""
        return self.batch_size or (32 if self.time or self.milliseconds else 128)

    def make_policy(self):
        """The policy object that the arguments speak of; `None` lets the gates decide."""
        if self.policy == "random":
            usages = {"tokens": self.token_usage, "heads": self.head_usage, "sublayers": self.block_usage}
            given = {name: usage for name, usage in usages.items() if usage is not None}
            return RandomPolicy(**given, seed=self.seed or 0)
        if self.policy == "topk":
            return TopKPolicy() if self.token_usage is None else TopKPolicy(self.token_usage)
        if self.policy == "merge":
            return MergePolicy() if self.merged is None else MergePolicy(self.merged)
        return OpenPolicy() if self.policy == "open" else None


def option_name(field):
    """How a field is called on the command line, as a message shows it."""
    return f"`--{field.replace('_', '-')}`"
