"""Loads a published checkpoint into a model, all of it or nothing."""

import dataclasses
from pathlib import Path

from keras_adavit.errors import InputError, printable
from keras_adavit.weights.positions import can_resize, grid_side, resize_positions
from keras_adavit.weights.published_names import CLASSIFIER, DISTILLED, is_gate, join, published_names
from keras_adavit.weights.torch_file import read_checkpoint
from keras_adavit.weights.transfer import weights_by_path

DENSE_FILE = "gates: the file is of a dense model"
THRESHOLD = "thresholds of the gates: `GateConfig` sets them, no file has them"
NO_CHECKSUMS = "the file has no checksums (torch's format before 1.6): damage in it cannot be noticed"
LISTED = 10  # names of a kind in an error


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every weight of the model and of every array of the file; `print` it.

    Attributes:
        path: The file.
        key: The key of the file under which the weights were.
        loaded: Names in the file by path in the model.
        kept: Why a weight of the model stays as it was, by path.
        ignored: Why an array of the file was not used, by name.
        notes: What else was done.
    """

    path: Path
    key: str
    loaded: dict[str, list[str]]
    kept: dict[str, str]
    ignored: dict[str, str]
    notes: list[str]

    @property
    def summary(self):
        """A line for what was loaded, and one for each reason why something was not."""
        arrays = sum(len(names) for names in self.loaded.values())
        file = printable(self.path) + (f" ({self.key})" if self.key else "")
        lines = [f"{file}: {len(self.loaded)} weights from {arrays} arrays"]
        for verb, entries in (("stays as it was", self.kept), ("ignored", self.ignored)):
            for reason in dict.fromkeys(entries.values()):
                lines.append(f"  {verb}: {list(entries.values()).count(reason)} {reason}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def __str__(self):
        lines = [f"loaded   {path} ← {', '.join(names)}" for path, names in self.loaded.items()]
        lines += [f"kept     {path}: {reason}" for path, reason in self.kept.items()]
        lines += [f"ignored  {name}: {reason}" for name, reason in self.ignored.items()]
        return "\n".join([*lines, self.summary])


def load_torch_checkpoint(model, path):
    """Loads a published AdaViT, DeiT or T2T-ViT file, or one of timm in the same names.

    ```python
    report = ka.load_torch_checkpoint(model, "published.pth")
    print(report)  # what became of every name
    ```

    A file of a dense model leaves the gates as they are, one of another number of classes the classifier; the
    positions of another image size are interpolated.

    Args:
        model: An `AdaViTClassifier`, changed in place.
        path: A file that `torch.save` wrote. Nothing in it is executed.

    Returns:
        A `Report` of every name.

    Raises:
        InputError: If `model` is something else, or the file cannot be read or does not fit the model; then no weight
            is changed.
    """
    if not hasattr(getattr(model, "backbone", None), "stem_kind"):
        raise InputError(f"`model` must be an `AdaViTClassifier`. Received: model={model!r}")
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
    arrays = checkpoint.arrays
    if any(name in arrays for name in DISTILLED):
        raise InputError(
            "The checkpoint must be of a model with one class token; distilled models have another token, which "
            f"takes part in every attention and would have to be gated too. Received: {printable(checkpoint.path)}, "
            "which is of a distilled model"
        )
    dense_file = not any(is_gate(name) for name in arrays)
    classes = {arrays[name].shape[:1] for name in CLASSIFIER if name in arrays}
    if len(classes) > 1:
        raise InputError(
            "The checkpoint must have a weight and a bias of the classifier for the same classes. "
            f"Received: {printable(checkpoint.path)} with {CLASSIFIER[0]} {arrays[CLASSIFIER[0]].shape} and "
            f"{CLASSIFIER[1]} {arrays[CLASSIFIER[1]].shape}"
        )
    values, loaded, kept, ignored = {}, {}, {}, {}
    notes = [] if checkpoint.has_checksums else [NO_CHECKSUMS]
    unused, missing, wrong = dict.fromkeys(arrays), [], []
    for path, shape in shapes.items():
        alternatives = published_names(path, stem)
        if not alternatives:
            kept[path] = THRESHOLD
            continue
        names = next((names for names in alternatives if all(name in arrays for name in names)), None)
        if names is None:
            if dense_file and ("_gate/" in path or "policy_norm/" in path):
                kept[path] = DENSE_FILE
            else:
                missing.append(alternatives[0][0])
            continue
        for name in names:
            del unused[name]
        parts = [arrays[name] for name in names]
        if len({part.shape for part in parts}) > 1:
            wrong.append(f"{', '.join(names)} {', '.join(str(part.shape) for part in parts)} instead of equal ones")
            continue
        value = join(names, parts)
        if path == "position" and can_resize(value.shape, shape):
            old, new = grid_side(value.shape[1]), grid_side(shape[1])
            notes.append(f"positions interpolated from {old}×{old} to {new}×{new}")
            value = resize_positions(value, shape[1])
        if value.shape == shape:
            values[path], loaded[path] = value, names
        elif names[0] in CLASSIFIER and value.ndim == len(shape) and value.shape[:-1] == shape[:-1]:
            kept[path] = f"classifier: of {shape[-1]} classes, the file's of {value.shape[-1]}"
            ignored[names[0]] = f"classifier: of {value.shape[-1]} classes, the model's of {shape[-1]}"
        else:
            wrong.append(f"{', '.join(names)} {value.shape} instead of {shape}")
    problems = {"missing": missing, "of another shape": wrong, "not in the model": list(unused)}
    if any(problems.values()):
        raise InputError(
            "The checkpoint must fit the model, of which nothing was changed. "
            f"Received: {printable(checkpoint.path)} with "
            + "; ".join(f"weights {kind} ({len(names)}): {listed(names)}" for kind, names in problems.items() if names)
        )
    return values, Report(checkpoint.path, checkpoint.key, loaded, kept, ignored, notes)


def listed(names):
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
