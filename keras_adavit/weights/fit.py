"""Whether the weights of a file fit those of a model, and what is made of them where only a size differs."""

from keras_adavit.errors import InputError
from keras_adavit.weights.positions import can_resize, grid_side, resize_positions

LISTED = 10  # names of a kind in an error


def fit(path, value, shape):
    """A weight for a place in the model.

    Args:
        path: The place, such as `position`.
        value: Array of the file, in the layout of Keras.
        shape: Shape of the place.

    Returns:
        The array, and what was done to it, or `None`: positions of another image size are interpolated. Everything else
        is what it was, whether it fits or not.
    """
    if path != "position" or not can_resize(value.shape, shape):
        return value, None
    old, new = grid_side(value.shape[1]), grid_side(shape[1])
    return resize_positions(value, shape[1]), f"positions interpolated from {old}×{old} to {new}×{new}"


def is_classifier(path):
    """Whether a weight is the classifier's."""
    return path.startswith("head/")


def is_gate(path):
    """Whether a weight is a gate's."""
    return "_gate/" in path or "policy_norm/" in path


def has_other_classes(path, found, shape):
    """Whether two shapes are of classifiers that differ in the number of classes alone."""
    return is_classifier(path) and len(found) == len(shape) and found[:-1] == shape[:-1] and found != shape


def other_classes(found, shape):
    """Why the model's classifier stays new, and why the file's is not used, by their shapes."""
    return (
        f"classifier: of {shape[-1]} classes, the file's of {found[-1]}",
        f"classifier: of {found[-1]} classes, the model's of {shape[-1]}",
    )


def check_fit(received, missing, wrong, unused):
    """Raises `InputError` if any name is given.

    Args:
        received: What the file is, for the message.
        missing: Weights of the model that the file has not.
        wrong: Weights of another shape, with the shapes.
        unused: Arrays of the file that have no place in the model.
    """
    problems = {"missing": missing, "of another shape": wrong, "not in the model": unused}
    if any(problems.values()):
        raise InputError(
            "The checkpoint must fit the model, of which nothing was changed: make the model with the preset, or the "
            f"sizes and gates, that the file is of. Received: {received} with "
            + "; ".join(f"weights {kind} ({len(names)}): {listed(names)}" for kind, names in problems.items() if names)
        )


def listed(names):
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
