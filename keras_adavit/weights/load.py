"""Loads a published checkpoint into a model, all of it or nothing."""

from keras_adavit.errors import InputError, printable
from keras_adavit.weights.checkpoint_file import read_checkpoint
from keras_adavit.weights.fit import check_fit, fit, has_other_classes, is_classifier, is_gate, listed, other_classes
from keras_adavit.weights.published_names import (
    CLASSIFIER,
    OTHER_MODELS,
    OTHER_PARTS,
    find_sizes,
    is_gate_name,
    join,
    published_names,
)
from keras_adavit.weights.report import Report
from keras_adavit.weights.transfer import weights_by_path

DENSE_FILE = "gates: the file is of a dense model"
NO_CLASSIFIER = "classifier: the file has none"
THRESHOLD = "thresholds of the gates: `GateConfig` sets them, no file has them"
UNPUBLISHED = "a weight that published gates have not"
NO_CHECKSUMS = (
    "the file has no checksums (safetensors, torch's format before 1.6): damage to its numbers cannot be noticed"
)
BACKBONE_FILE = "a part of Hugging Face's backbones that the classifier does not read"


def load_torch_checkpoint(model, path):
    """Loads a published AdaViT, DeiT or T2T-ViT file, or a DeiT or ViT of timm or Hugging Face.

    ```python
    report = ka.load_torch_checkpoint(model, "published.pth")
    print(report)  # what became of every name
    ```

    A file of a dense model leaves the gates as they are, one of another number of classes, or without any, the
    classifier; the positions of another image size are interpolated.

    No file tells the number of heads or the ε of the normalisations, which is 1e-6 in timm's models and in those of the
    presets, but 1e-12 in most of Hugging Face's: `layer_norm_epsilon`.

    Args:
        model: An `AdaViTClassifier`, changed in place.
        path: A file that `torch.save` wrote, which takes torch to read, or a `.safetensors` file, which does not.
            Nothing in it is executed.

    Returns:
        A `Report` of every name.

    Raises:
        InputError: If `model` is something else or has a convolutional stem, or the file cannot be read or does not
            fit the model; then no weight is changed.
    """
    if not hasattr(getattr(model, "backbone", None), "stem_kind"):
        raise InputError(f"`model` must be an `AdaViTClassifier`. Received: model={model!r}")
    if model.backbone.stem_kind == "conv":
        raise InputError(
            "`model` must have the stem of a published model, not a convolutional one, which no such file has. "
            "Received: stem='conv'"
        )
    checkpoint = read_checkpoint(path)
    variables = weights_by_path(model)
    values, report = match(
        checkpoint, {name: tuple(v.shape) for name, v in variables.items()}, model.backbone.stem_kind
    )
    for name, value in values.items():
        variables[name].assign(value)
    return report


def match(checkpoint, shapes, stem):
    """Finds the arrays of every weight.

    Args:
        checkpoint: A `Checkpoint`.
        shapes: Shape of each weight by path.
        stem: The stem of the model's backbone.

    Returns:
        Arrays by path, and the `Report`.

    Raises:
        InputError: If a name or a shape has no counterpart.
    """
    check_kind(checkpoint)
    arrays = checkpoint.arrays
    has_gates, has_classifier = any(map(is_gate_name, arrays)), any(name in arrays for name in CLASSIFIER)
    values, loaded, kept, ignored = {}, {}, {}, {}
    notes = [] if checkpoint.has_checksums else [NO_CHECKSUMS]
    unused, missing, wrong = dict.fromkeys(arrays), [], []
    for path, shape in shapes.items():
        alternatives = published_names(path, stem)
        if not alternatives:
            kept[path] = THRESHOLD if path.endswith("/threshold") else UNPUBLISHED
            continue
        names = next((names for names in alternatives if all(name in arrays for name in names)), None)
        if names is None:
            if not has_gates and is_gate(path):
                kept[path] = DENSE_FILE
            elif not has_classifier and is_classifier(path):
                kept[path] = NO_CLASSIFIER
            else:
                missing.append(alternatives[0][0])
            continue
        for name in names:
            del unused[name]
        parts = [arrays[name] for name in names]
        own = [checkpoint.own_name(name) for name in names]
        if len({part.shape for part in parts}) > 1:
            wrong.append(f"{', '.join(own)} {', '.join(str(part.shape) for part in parts)} instead of equal ones")
            continue
        value, note = fit(path, join(names, parts), shape)
        notes += [note] if note else []
        if value.shape == shape:
            values[path], loaded[path] = value, own
        elif has_other_classes(path, value.shape, shape):
            kept[path], ignored[own[0]] = other_classes(value.shape, shape)
        else:
            wrong.append(f"{', '.join(own)} {value.shape} instead of {shape}")
    if len(unused) == len(arrays):
        raise InputError(
            "The checkpoint must be of an AdaViT, DeiT, T2T-ViT or ViT under the published names, timm's or Hugging "
            f"Face's. Received: {printable(checkpoint.path)} with other names, {listed(list(unused))}"
        )
    ignored |= {checkpoint.own_name(name): BACKBONE_FILE for name in unused if name in OTHER_PARTS}
    unused = [checkpoint.own_name(name) for name in unused if name not in OTHER_PARTS]
    check_fit(describe(checkpoint, shapes), missing, wrong, unused)
    return values, Report(checkpoint.path, checkpoint.key, loaded, kept, ignored, notes)


def check_kind(checkpoint):
    """Raises `InputError` for models that this library has not, which names tell, and for classifiers in conflict."""
    arrays = checkpoint.arrays
    for kind, names in OTHER_MODELS.items():
        found = next((checkpoint.own_name(name) for name in names if name in arrays), None)
        if found:
            raise InputError(
                "The checkpoint must be of a model with one class token, which its classifier reads, and with no other "
                f"token but those of the patches. Received: {printable(checkpoint.path)}, which is of {kind} ({found})"
            )
    shapes = {checkpoint.own_name(name): arrays[name].shape for name in CLASSIFIER if name in arrays}
    if len({shape[:1] for shape in shapes.values()}) > 1:
        raise InputError(
            "The checkpoint must have a weight and a bias of the classifier for the same classes. "
            f"Received: {printable(checkpoint.path)} with "
            + " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        )


def describe(checkpoint, shapes):
    """The file, and its width and depth where they are not the model's."""
    found = find_sizes(checkpoint.arrays)
    blocks = {path.partition("/")[0] for path in shapes if path.startswith("block_")}
    wanted = {"width": shapes["class_token"][-1], "depth": len(blocks)}
    if found == wanted:
        return printable(checkpoint.path)
    found, wanted = (", ".join(f"{name} {size}" for name, size in sizes.items()) for sizes in (found, wanted))
    return f"{printable(checkpoint.path)} ({found}; the model: {wanted})"
