"""Images a second, dense against adaptive: is a saved MAC saved time?"""

import dataclasses
import statistics
import time

import keras
import numpy as np
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.models.backbone import AdaViTBackbone
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.input_data import check_images
from keras_adavit.models.validation import check_integer, refuse
from keras_adavit.weights.transfer import weights_by_path


@dataclasses.dataclass(frozen=True)
class Timing:
    """What `measure` found.

    Attributes:
        dense: Images a second of the dense model with the same weights.
        masked: Those of the adaptive model when it computes everything and multiplies the skipped part away.
        packed: Those of the adaptive model when it computes only what is kept.
        macs_share: The adaptive model's mean MACs over the dense model's.
        images: Images of a turn.
        batch_size: Images in a batch.
        rounds: Turns of each.
        backend: Name of Keras's backend.
    """

    dense: float
    masked: float
    packed: float
    macs_share: float
    images: int
    batch_size: int
    rounds: int
    backend: str


def measure(model, images, batch_size=32, rounds=5):
    """Times a model against the dense one of the same weights; both are copies, the model itself stays as it is.

    Dense, masked and packed take turns on the same images, so that whatever else the machine does falls on all three;
    the time of each is the median of its turns. They run under XLA on JAX, as graphs on TensorFlow, eagerly on torch;
    the first turn of each, which compiles, does not count.

    Args:
        model: An `AdaViTClassifier` with gates.
        images: Array (N, S, S, C), as the model was trained on; those beyond the last whole batch are left out.
        batch_size: Images in a batch; all of them, if they are fewer.
        rounds: Turns of each.

    Returns:
        A `Timing`.

    Raises:
        InputError: If an argument is something else, there is no image, or the model has no gates.
    """
    if not isinstance(model, AdaViTClassifier):
        refuse("model", "an `AdaViTClassifier`", model)
    if model.backbone.gates is None:
        raise InputError("`model` must have gates, to be compared with the dense one. Received: gates=None")
    check_images("images", images, model.backbone.image_shape)
    if not len(images):
        raise InputError("`images` must have at least one image. Received: none")
    batch_size = min(check_integer("batch_size", batch_size), len(images))
    rounds = check_integer("rounds", rounds)
    images = ops.convert_to_numpy(images)[: len(images) // batch_size * batch_size]
    batches = np.split(images, len(images) // batch_size)
    models = {"dense": copy(model, gates=None)}
    for execution in ("masked", "packed"):
        models[execution] = copy(model, gates=model.backbone.gates)
        models[execution].execution = execution
    macs = [models["masked"].predict_on_batch(batch)["macs"] for batch in batches]
    functions = {
        name: lambda each=each: [each.predict_on_batch(batch) for batch in batches] for name, each in models.items()
    }
    seconds = time_in_turns(functions, rounds)
    return Timing(
        **{name: len(images) / each for name, each in seconds.items()},
        macs_share=float(np.mean(macs, dtype="float64") / model.dense_macs),
        images=len(images),
        batch_size=batch_size,
        rounds=rounds,
        backend=keras.backend.backend(),
    )


def time_in_turns(functions, rounds):
    """Calls functions in turns: once each without the clock, which lets them compile, then `rounds` times.

    Args:
        functions: Dict of functions without arguments.
        rounds: Turns that count.

    Returns:
        A dict of the median seconds of each.
    """
    seconds = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def copy(model, gates):
    """A model of the same sizes and weights with other gates, or none, compiled for inference."""
    config = model.backbone.get_config()
    config |= {"gates": None if gates is None else gates.get_config(), "drop_path": 0.0, "patch_dropout": 0.0}
    twin = AdaViTClassifier(AdaViTBackbone.from_config(config), model.num_classes, dtype=model.dtype_policy)
    weights = weights_by_path(model)
    for path, variable in weights_by_path(twin).items():
        variable.assign(ops.copy(weights[path]))  # JAX would share the buffer
    # On CPUs TensorFlow is faster without XLA; on torch `jit_compile` is not XLA but torch.compile.
    twin.compile(jit_compile=keras.backend.backend() == "jax")
    return twin
