"""Thresholds for a MAC target, after training and without it: one checkpoint serves many budgets."""

import warnings

import numpy as np
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.input_data import check_images, iterate
from keras_adavit.models.validation import check_positive, refuse

GATE_KINDS = ("tokens", "heads", "blocks")
TOLERANCE = 0.01  # of the target
FAR = 20.0  # a shift of the logits that closes, or opens, every gate
STEPS = 40


def calibrate(model, dataset, macs, gates=None):
    """Shifts the gates' thresholds so that the mean MACs over a data set hit a target.

    All thresholds move by the same amount on the scale of the gates' logits, found by bisection: a higher one closes
    gates, and so a smaller target gives fewer MACs. They are weights of the model, so that they are saved and exported
    with it; calibrating again starts from where they are.

    ```python
    share = ka.calibrate(model, images, macs=0.6)
    ```

    Args:
        model: An `AdaViTClassifier` with gates; its thresholds are changed.
        dataset: Images, as the model is to see them later: a float array (N, S, S, C), or something that can be
            iterated more than once, of batches (B, S, S, C) or of pairs of these and labels, which are not read. It is
            evaluated some 10 to 20 times; a few hundred images are enough for a target within 1 %.
        macs: The target: up to 1 a share of the dense model's MACs, above 1 an absolute number.
        gates: Which gates shift: some of `"tokens"`, `"heads"` and `"blocks"`, or a single name; all that the model
            has if not given.

    Returns:
        The mean MACs over the data set that were reached, as a share of the dense model's: a float. If the nearest
        shift is more than 1 % of the target away, because gates of many images switch at once, there is a warning.

    Raises:
        InputError: If an argument is something else, the model has no such gates, or the target is out of their reach.
            The thresholds are then as they were.
    """
    if not isinstance(model, AdaViTClassifier):
        refuse("model", "an `AdaViTClassifier`", model)
    names = (gates,) if isinstance(gates, str) else gates
    if gates is None:
        names = [name for name in GATE_KINDS if any(gates_of(model, name))] or GATE_KINDS
    if not isinstance(names, (tuple, list)) or not names or not all(name in GATE_KINDS for name in names):
        refuse("gates", f"some of {GATE_KINDS}", gates)
    macs = check_positive("macs", macs)
    target = macs / model.dense_macs if macs > 1 else macs
    thresholds = find_thresholds(model, names)
    before = [float(ops.convert_to_numpy(threshold)) for threshold in thresholds]

    def shift_by(shift):
        for threshold, start in zip(thresholds, before, strict=True):
            threshold.assign(1 / (1 + np.exp(-(logit(start) + shift))))

    def share_at(shift):
        shift_by(shift)
        return mean_macs(model, dataset) / model.dense_macs

    try:
        shift, share = bisect(share_at, target)
    except BaseException:
        for threshold, start in zip(thresholds, before, strict=True):
            threshold.assign(start)
        raise
    shift_by(shift)
    if abs(share - target) > TOLERANCE * target:
        warnings.warn(
            f"The nearest to {target:.4f} of the dense model's MACs is {share:.4f}: there the gates of many images "
            "switch at once.",
            stacklevel=2,
        )
    return share


def bisect(share_at, target):
    """The shift whose share of MACs is nearest to the target, and that share.

    Raises:
        InputError: If the target lies outside what any shift gives.
    """
    low, high = -FAR, FAR
    most, least = share_at(low), share_at(high)
    if not least * (1 - TOLERANCE) <= target <= most * (1 + TOLERANCE):
        raise InputError(
            f"`macs` must be within the reach of these gates, {least:.4f} to {most:.4f} of the dense model's MACs. "
            f"Received: {target:.4f}"
        )
    tried = {low: most, high: least}
    # A tenth of the tolerance, so that two targets that differ by it are told apart.
    while len(tried) < STEPS and min(abs(share - target) for share in tried.values()) > TOLERANCE / 10 * target:
        middle = (low + high) / 2
        tried[middle] = share_at(middle)
        low, high = (middle, high) if tried[middle] > target else (low, middle)
    shift = min(tried, key=lambda shift: abs(tried[shift] - target))
    return shift, tried[shift]


def find_thresholds(model, names):
    """The threshold variables of gates of these kinds; raises `InputError` if there is none of a kind."""
    thresholds = []
    for name in names:
        gates = gates_of(model, name)
        if not any(gates):
            raise InputError(f"`gates` must be such as the model has. Received: {name!r}, of which it has none")
        thresholds += [gate.threshold for gate in gates if gate]
    return thresholds


def gates_of(model, name):
    """The gate of a kind of each block, `None` where there is none."""
    kinds = {"tokens": "token_gate", "heads": "head_gate", "blocks": "block_gate"}
    return [getattr(block, kinds[name]) for block in model.backbone.blocks]


def mean_macs(model, dataset):
    """Mean MACs of a model over images, see `calibrate`."""
    total, count = 0.0, 0
    for images in batches(model, dataset):
        macs = model.predict_on_batch(images)["macs"]
        total, count = total + float(np.sum(macs, dtype="float64")), count + len(macs)
    if not count:
        raise InputError("`dataset` must have images, and be one that can be iterated again. Received: none")
    return total / count


def batches(model, dataset, size=32):
    """Yields batches of images."""
    shape = model.backbone.image_shape
    parts = dataset
    if hasattr(dataset, "shape"):
        check_images("dataset", dataset, shape)
        parts = (dataset[start : start + size] for start in range(0, len(dataset), size))
    for part in iterate(parts):
        images = part[0] if isinstance(part, (tuple, list)) and part else part
        check_images("dataset", images, shape)
        if len(images):
            yield ops.convert_to_numpy(images)  # those of tf.data, too, on JAX


def logit(probability):
    """The logit of a probability; beyond ±20, where float32 knows only 0 and 1, ±20."""
    probability = min(max(probability, 1e-9), 1 - 1e-9)
    return float(np.log(probability / (1 - probability)))
