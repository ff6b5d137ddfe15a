"""Weights from a dense model into a gated one."""

import keras
from keras import ops

from keras_adavit.errors import InputError

NOT_TRANSFERRED = ("step",)  # variables that belong to a model's own training


def initialize_from(model, source):
    """Copies every weight that two models have in common; the gates, which `source` lacks, stay new.

    Args:
        model: An `AdaViTClassifier` to change.
        source: An `AdaViTClassifier` of the same sizes, with fewer gates or none.

    Returns:
        Paths of the weights of `model` that stay new.

    Raises:
        InputError: If either is no such model, or a weight of `source` has no counterpart of the same shape; then
            nothing is changed.
    """
    for name, value in (("model", model), ("source", source)):
        if not isinstance(value, keras.Model) or not hasattr(value, "backbone"):
            raise InputError(f"`{name}` must be an `AdaViTClassifier`. Received: {name}={value!r}")
    targets, sources = weights_by_path(model), weights_by_path(source)
    wrong = [
        f"{path} {tuple(variable.shape)}"
        for path, variable in sources.items()
        if path not in targets or targets[path].shape != variable.shape
    ]
    if wrong:
        raise InputError(
            f"`source` must be a dense model of the sizes of `model`. Received: {len(wrong)} weights that do not fit, "
            f"such as {wrong[0]}"
        )
    for path, variable in sources.items():
        # A copy: JAX would share the buffer, and training `model` gives its buffers away.
        targets[path].assign(ops.copy(variable))
    return sorted(targets.keys() - sources.keys())


def weights_by_path(model):
    """A model's weights under their paths without the model's own name."""
    paths = {}
    for variable in model.weights:
        path = variable.path.removeprefix(f"{model.name}/").removeprefix(f"{model.backbone.name}/")
        if path not in NOT_TRANSFERRED and "seed_generator" not in path:
            paths[path] = variable
    return paths
