"""The published models by name."""

import dataclasses
import difflib
import os

from keras_adavit import macs
from keras_adavit.data.preprocessing import Preprocessing
from keras_adavit.errors import InputError
from keras_adavit.gating.config import GateConfig
from keras_adavit.models.validation import describe, refuse

PUBLISHED_GATES = GateConfig()  # what the published models gate
PUBLISHED_PREPROCESSING = Preprocessing(crop_fraction=0.9)  # what they are evaluated on; the rest is ImageNet's


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of a published model, and where the weights of its dense model are.

    Attributes:
        width, depth, num_heads, mlp_ratio, stem: As of `AdaViTBackbone`.
        parameters: Weights of the dense model with 1000 classes, fixed positions and random features counted.
        file: The published file of the dense model.
        top1: Published ImageNet accuracy of the dense model in percent.
        dense_macs: MACs of the dense model for an image of 224 pixels and 1000 classes.
    """

    width: int
    depth: int
    num_heads: int
    mlp_ratio: float
    stem: str
    parameters: int
    file: str
    top1: float
    dense_macs: int = dataclasses.field(init=False)

    def __post_init__(self):
        num_tokens = (224 // 16) ** 2 + 1
        total = macs.classifier_macs(num_tokens, self.width, 1000)
        total += macs.stem_macs(self.stem, image_size=224, patch_size=16, channels=3, width=self.width, token_width=64)
        total += macs.dense_blocks_macs(
            num_tokens,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=int(self.width * self.mlp_ratio),
        )
        object.__setattr__(self, "dense_macs", total)  # the class is frozen

    def backbone_arguments(self, gated):
        """Arguments of `AdaViTBackbone` apart from image size and gates: a dict.

        Positions are fixed sinusoids except in DeiT's own, ungated models, and T2T-ViT has no q, k, v biases.
        """
        t2t = self.stem != "patch"
        return {
            "patch_size": 16,
            "width": self.width,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "stem": self.stem,
            "positions": "sinusoid" if t2t or gated else "learned",
            "qkv_bias": not t2t,
            "layer_norm_epsilon": 1e-5 if t2t else 1e-6,
        }


def deit(width, num_heads, parameters, file, top1):
    return Preset(width, 12, num_heads, 4.0, "patch", parameters, file, top1)


def t2t(width, depth, num_heads, mlp_ratio, parameters, file, top1):
    return Preset(width, depth, num_heads, mlp_ratio, "t2t_performer", parameters, file, top1)


def t2t_t(width, depth, num_heads, parameters, file, top1):
    return Preset(width, depth, num_heads, 3.0, "t2t_transformer", parameters, file, top1)


PRESETS = {
    "ada_deit_tiny_patch16_224": deit(192, 3, 5_717_416, "deit_tiny_patch16_224-a1311bcf.pth", 72.2),
    "ada_deit_small_patch16_224": deit(384, 6, 22_050_664, "deit_small_patch16_224-cd65a155.pth", 79.9),
    "ada_deit_base_patch16_224": deit(768, 12, 86_567_656, "deit_base_patch16_224-b5f2ef4d.pth", 81.8),
    "ada_t2t_vit_7": t2t(256, 7, 4, 2.0, 4_310_222, "71.7_T2T_ViT_7.pth.tar", 71.7),
    "ada_t2t_vit_10": t2t(256, 10, 4, 2.0, 5_889_230, "75.2_T2T_ViT_10.pth.tar", 75.2),
    "ada_t2t_vit_12": t2t(256, 12, 4, 2.0, 6_941_902, "76.5_T2T_ViT_12.pth.tar", 76.5),
    "ada_t2t_vit_14": t2t(384, 14, 6, 3.0, 21_545_550, "81.5_T2T_ViT_14.pth.tar", 81.5),
    "ada_t2t_vit_19": t2t(448, 19, 7, 3.0, 39_177_422, "81.9_T2T_ViT_19.pth.tar", 81.9),
    "ada_t2t_vit_24": t2t(512, 24, 8, 3.0, 64_105_934, "82.3_T2T_ViT_24.pth.tar", 82.3),
    "ada_t2t_vit_t_14": t2t_t(384, 14, 6, 21_541_070, "81.7_T2T_ViTt_14.pth.tar", 81.7),
    "ada_t2t_vit_t_19": t2t_t(448, 19, 7, 39_172_942, "82.4_T2T_ViTt_19.pth.tar", 82.4),
    "ada_t2t_vit_t_24": t2t_t(512, 24, 8, 64_101_454, "82.6_T2T_ViTt_24.pth.tar", 82.6),
}


def find_preset(name, argument="name"):
    """The `Preset` of a name; raises `InputError`, which speaks of the `argument`, with the nearest names."""
    if not isinstance(name, str) or name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=3, cutoff=0.3) or list(PRESETS)
        raise InputError(
            f"`{argument}` must be that of a preset, such as {', '.join(near)}. Received: {argument}={describe(name)}"
        )
    return PRESETS[name]


def check_weights(weights, gated):
    """Raises `InputError` for weights that are neither published nor a file."""
    published = isinstance(weights, str) and weights == "imagenet"
    is_file = isinstance(weights, str | os.PathLike) and os.path.isfile(weights)
    if weights is not None and not published and not is_file:
        refuse("weights", "'imagenet', the path of a .pth or .safetensors file, or None", weights)
    if published and gated:
        raise InputError(
            "`weights` of the gated models have no public address: give `gates=None` for the dense model, or the path "
            "of a file, of which a dense one leaves the gates new. Received: weights='imagenet' with gates"
        )
