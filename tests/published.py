"""The published models in small, and arrays under the published names."""

import keras_adavit as ka
from keras_adavit.weights.published_names import join, published_names
from keras_adavit.weights.transfer import weights_by_path

DEIT = {"image_size": 64, "patch_size": 16, "width": 96, "depth": 4, "num_heads": 3}
GATED_DEIT = {**DEIT, "positions": "sinusoid"}
TOKENS_ONLY = {"heads": None, "blocks": False, "gate_mlp_tokens": False}
# What each checkpoint in the fixtures is of.
MICRO = {
    "ada_deit_micro": {**GATED_DEIT, "gates": ka.GateConfig()},
    "ada_deit_micro_partial_heads": {**GATED_DEIT, "gates": ka.GateConfig(heads="partial")},
    "ada_deit_micro_tokens_only": {**GATED_DEIT, "gates": ka.GateConfig(**TOKENS_ONLY)},
    "deit_micro_dense": DEIT,
    "ada_t2t_micro": {
        "image_size": 64,
        "width": 64,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 3,
        "stem": "t2t_performer",
        "token_width": 16,
        "positions": "sinusoid",
        "qkv_bias": False,
        "layer_norm_epsilon": 1e-5,
        "gates": ka.GateConfig(),
    },
}


def micro_model(name, num_classes=10, **changes):
    """The model of a checkpoint in the fixtures, with new weights."""
    return ka.AdaViTClassifier(ka.AdaViTBackbone(**{**MICRO[name], **changes}), num_classes=num_classes)


def pair(model, arrays):
    """Pairs every variable of a model with the array of the same meaning, gradients as well as weights."""
    pairs = []
    for path, variable in weights_by_path(model).items():
        for names in published_names(path, model.backbone.stem_kind):
            if all(name in arrays for name in names):
                pairs.append((variable, join(names, [arrays[name] for name in names])))
    return pairs


SAFETENSORS = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2}
EPSILON = {"timm": 1e-6, "hugging_face": 1e-12}  # of the normalisations, which their files do not tell


def safetensors_model(library, num_classes=5, **changes):
    """The model of `{library}_vit_micro.safetensors`, a file that the library wrote, with new weights."""
    sizes = {**SAFETENSORS, "layer_norm_epsilon": EPSILON[library], **changes}
    return ka.AdaViTClassifier(ka.AdaViTBackbone(**sizes), num_classes)
