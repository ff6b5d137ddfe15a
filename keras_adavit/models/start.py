"""The weights that training starts from, out of whatever kind of file there is."""

import os
from pathlib import Path

from keras import ops

from keras_adavit.errors import InputError, printable
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.presets import find_preset
from keras_adavit.models.saved import load_model
from keras_adavit.models.validation import refuse
from keras_adavit.weights.download import download
from keras_adavit.weights.fit import check_fit, fit, has_other_classes, is_gate, other_classes
from keras_adavit.weights.load import DENSE_FILE, load_torch_checkpoint
from keras_adavit.weights.report import Report
from keras_adavit.weights.transfer import weights_by_path

DENSE_MODEL = "gates: the model is dense"
OTHER_THRESHOLD = "thresholds of the gates: the model's `GateConfig` has others than the file's"
# Fields in which gates may differ and their weights still mean the same.
ONLY_OWN = ("temperature", "token_threshold", "head_threshold", "block_threshold")


def load_weights(model, weights, preset=None):
    """Gives a model the weights that training starts from.

    ```python
    report = load_weights(model, "runs/flowers/dense/best.keras")
    print(report.summary)
    ```

    Positions of another image size are interpolated. The classifier stays new where the file's has another number of
    classes. Gates stay new where the file has none; where the model is dense, those of a `.keras` file are ignored.

    Args:
        model: An `AdaViTClassifier`, changed in place.
        weights: `"imagenet"`, the published weights of a preset's dense model, which are fetched once; or the path of a
            `.pth`, `.pth.tar` or `.safetensors` file, read as by `load_torch_checkpoint`, or of a `.keras` file of this
            library. Where model and `.keras` file both have gates, they must have the same.
        preset: Name of the preset that the model was made from, or `None`; `"imagenet"` needs it.

    Returns:
        A `Report` of every name; its `new_classifier` says whether the classifier stayed new.

    Raises:
        InputError: If `model` or `weights` is something else, or the file cannot be read or does not fit the model;
            then no weight is changed.
    """
    if not isinstance(model, AdaViTClassifier):
        refuse("model", "an `AdaViTClassifier`", model)
    file = None if preset is None else find_preset(preset).file
    is_file = isinstance(weights, str | os.PathLike) and os.path.isfile(weights)
    if isinstance(weights, str) and weights == "imagenet":
        if preset is None:
            raise InputError(
                "`weights` must be the path of a file for a model of no preset: those of ImageNet are of the presets' "
                "sizes. Received: weights='imagenet', preset=None"
            )
        return load_torch_checkpoint(model, download(file))
    if not is_file:
        refuse("weights", "'imagenet', or the path of a .pth, .safetensors or .keras file", weights)
    if os.fsdecode(weights).endswith(".keras"):
        return load_keras_file(model, weights)
    return load_torch_checkpoint(model, weights)


def load_keras_file(model, path):
    """What `load_weights` does with a `.keras` file."""
    source = load_model(path)
    check_heads_and_gates(model.backbone, source.backbone, path)
    targets, found = weights_by_path(model), weights_by_path(source)
    values, loaded, kept, ignored, notes, missing, wrong = {}, {}, {}, {}, [], [], []
    for name, variable in targets.items():
        shape = tuple(variable.shape)
        if name not in found:
            if is_gate(name) and source.backbone.gates is None:
                kept[name] = DENSE_FILE
            else:
                missing.append(name)
            continue
        if has_other_threshold(name, model.backbone.gates, source.backbone.gates):
            kept[name] = ignored[name] = OTHER_THRESHOLD
            continue
        value, note = fit(name, ops.convert_to_numpy(found[name]), shape)
        notes += [note] if note else []
        if value.shape == shape:
            values[name], loaded[name] = value, [name]
        elif has_other_classes(name, value.shape, shape):
            kept[name], ignored[name] = other_classes(value.shape, shape)
        else:
            wrong.append(f"{name} {value.shape} instead of {shape}")
    unused = [name for name in found if name not in targets]
    if model.backbone.gates is None:
        ignored |= {name: DENSE_MODEL for name in unused if is_gate(name)}
    check_fit(printable(path), missing, wrong, [name for name in unused if name not in ignored])
    for name, value in values.items():
        targets[name].assign(value)
    return Report(Path(path), "", loaded, kept, ignored, notes)


def check_heads_and_gates(backbone, source, path):
    """Raises `InputError` for what no shape of a weight tells: the heads, and what is gated.

    Args:
        backbone: That of the model.
        source: That of the file.
        path: The file.
    """
    if source.num_heads != backbone.num_heads:
        raise InputError(
            "The checkpoint must have the heads of the model, of which nothing was changed. "
            f"Received: {printable(path)} with num_heads={source.num_heads} instead of {backbone.num_heads}"
        )
    if backbone.gates is None or source.gates is None:
        return
    own, other = backbone.gates.get_config(), source.gates.get_config()
    differ = [name for name in own if own[name] != other[name] and name not in ONLY_OWN]
    if differ:
        told = ", ".join(f"{name}={other[name]!r} instead of {own[name]!r}" for name in differ)
        raise InputError(
            "The checkpoint must have the gates of the model, of which nothing was changed, or none. "
            f"Received: {printable(path)} with {told}"
        )


def has_other_threshold(name, gates, other):
    """Whether a weight is the threshold of a gate that two configurations, which are given, set differently."""
    layer, _, weight = name.rpartition("/")
    if weight != "threshold":
        return False
    field = f"{layer.rpartition('/')[2].removesuffix('_gate')}_threshold"
    return getattr(gates, field) != getattr(other, field)
