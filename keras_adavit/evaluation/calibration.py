"""Thresholds for a target of MACs or of time, after training and without it: one checkpoint serves many budgets."""

import warnings

import numpy as np
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.evaluation.thresholds import GATE_KINDS, Target, Thresholds, bisect, find_reach, gate_kinds, nearest
from keras_adavit.evaluation.timing import copy, time_in_turns
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.input_data import check_images, iterate
from keras_adavit.models.validation import check_integer, check_positive, describe, refuse

MACS_TOLERANCE, TIME_TOLERANCE = 0.01, 0.05  # of the target
MACS_STEPS, TIME_STEPS = 40, 14
TIMED, TURNS = 64, 7  # images of a turn, where a batch is smaller; turns of which a time is the median
SEARCHES = 3  # for a time that a second look does not confirm


def calibrate(model, dataset, macs=None, gates=None, milliseconds=None, batch_size=32):
    """Shifts the gates' thresholds so that the mean cost over a data set, MACs or time, hits a target.

    All thresholds move by the same amount on the scale of the gates' logits, found by bisection: a higher one closes
    gates, and so a smaller target gives fewer MACs. Where gates follow the budget (`follow_budget` of `GateConfig`)
    each threshold moves at the rate that its gate learned. They are weights of the model, so that they are saved and
    exported with it; calibrating again starts from where they are.

    ```python
    share = ka.calibrate(model, images, macs=0.6)
    ```

    With `milliseconds` the target is the time per image of the packed model on this machine, whatever the model's own
    `execution` is: a copy of it, warmed up, predicts the first images in whole batches, 64 of them, or one batch where
    that is more; the time is the median of 7 such turns. A shift that the bisection finds is measured once more, and
    looked for up to three times until that confirms it. It takes as long as 6,000 images do on most machines, some 10
    seconds at 1.5 ms an image, at most three times that, and compiling. Nothing else should keep the machine busy.

    Args:
        model: An `AdaViTClassifier` with gates; its thresholds are changed.
        dataset: Images, as the model is to see them later: a float array (N, S, S, C), or something that can be
            iterated more than once, of batches (B, S, S, C) or of pairs of these and labels, which are not read. For
            `macs` it is evaluated some 10 to 20 times, and a few hundred images are enough for a target within 1 %; for
            `milliseconds`, only the first images are read, which should be a fair sample.
        macs: The target: up to 1 a share of the dense model's MACs, above 1 an absolute number.
        gates: Which gates shift: some of `"tokens"`, `"heads"` and `"blocks"`, or a single name; all that the model
            has if not given.
        milliseconds: Instead of `macs`, the target as milliseconds an image.
        batch_size: Images in a batch: of what is timed, all images if they are fewer, and of arrays.

    Returns:
        What was reached, a float: with `macs` the mean MACs over the data set, as a share of the dense model's; with
        `milliseconds` the time an image. There is a warning if it is more than 1 % of the target away, of a time 5 %:
        because gates of many images switch at once, or because the machine was busy.

    Raises:
        InputError: If an argument is something else, not exactly one of `macs` and `milliseconds` is given, the model
            has no such gates, or the target is out of their reach. The thresholds are then as they were.
    """
    if not isinstance(model, AdaViTClassifier):
        refuse("model", "an `AdaViTClassifier`", model)
    names = (gates,) if isinstance(gates, str) else gates
    if gates is None:
        names = gate_kinds(model) or GATE_KINDS
    if not isinstance(names, (tuple, list)) or not names or not all(name in GATE_KINDS for name in names):
        refuse("gates", f"some of {GATE_KINDS}", gates)
    if (macs is None) == (milliseconds is None):
        raise InputError(
            "One of `macs` and `milliseconds` must be given. "
            f"Received: macs={describe(macs)}, milliseconds={describe(milliseconds)}"
        )
    batch_size = check_integer("batch_size", batch_size)
    thresholds = Thresholds(model, names)
    try:
        if milliseconds is None:
            target = macs_target(model, macs)
            shift, reached = meet_macs(model, dataset, thresholds, target, batch_size)
        else:
            target = Target(
                "milliseconds", check_positive("milliseconds", milliseconds), "milliseconds an image", TIME_TOLERANCE
            )
            shift, reached = meet_time(model, dataset, names, target, batch_size)
        thresholds.shift(shift)
    except BaseException:
        thresholds.restore()
        raise
    if not target.is_met_by(reached):
        why = "there the gates of many images switch at once" + (", or the machine is busy" if milliseconds else "")
        warnings.warn(
            f"The nearest to {target.value:.4f} {target.unit} is {reached:.4f}, more than {target.tolerance:.0%} away: "
            f"{why}.",
            stacklevel=2,
        )
    return reached


def macs_target(model, macs):
    """The `Target` of an argument `macs`: a share of the dense model's."""
    macs = check_positive("macs", macs)
    share = macs / model.dense_macs if macs > 1 else macs
    return Target("macs", share, "of the dense model's MACs", MACS_TOLERANCE)


def meet_macs(model, dataset, thresholds, target, batch_size):
    """The shift whose share of MACs is nearest to the target, and that share."""

    def share_at(shift):
        thresholds.shift(shift)
        return mean_macs(model, dataset, batch_size) / model.dense_macs

    # A tenth of the tolerance, so that two targets that differ by it are told apart.
    return bisect(share_at, target, find_reach(share_at, target), target.tolerance / 10, MACS_STEPS)


def meet_time(model, dataset, names, target, batch_size):
    """The shift whose time is nearest to the target, and that time, measured apart from the search."""
    timed = timed_batches(model, dataset, batch_size)
    twin = copy(model, model.backbone.gates)
    twin.execution = "packed"
    thresholds = Thresholds(twin, names)

    def time_at(shift):
        thresholds.shift(shift)
        return measure_milliseconds(twin, timed)

    reach = find_reach(time_at, target)
    confirmed = {}
    for _ in range(SEARCHES):
        shift, _ = bisect(time_at, target, reach, target.tolerance / 2, TIME_STEPS)
        confirmed[shift] = time_at(shift)  # of many noisy times the nearest looks nearer than it is
        if target.is_met_by(confirmed[shift]):
            return shift, confirmed[shift]
    return nearest(confirmed, target)


def mean_macs(model, dataset, batch_size):
    """Mean MACs of a model over images, see `calibrate`."""
    total, count = 0.0, 0
    for images in batches(model, dataset, batch_size):
        macs = model.predict_on_batch(images)["macs"]
        total, count = total + float(np.sum(macs, dtype="float64")), count + len(macs)
    if not count:
        raise InputError("`dataset` must have images, and be one that can be iterated again. Received: none")
    return total / count


def measure_milliseconds(model, timed):
    """Milliseconds an image of a compiled model, the median of turns over batches of one size, after a turn more."""
    turn = {"model": lambda: [model.predict_on_batch(batch) for batch in timed]}
    return 1000 * time_in_turns(turn, TURNS)["model"] / sum(map(len, timed))


def timed_batches(model, dataset, batch_size):
    """The first images in batches of one size, see `calibrate`: a list."""
    wanted, found = max(TIMED, batch_size), []
    for images in batches(model, dataset, batch_size):
        found.append(images)
        if sum(map(len, found)) >= wanted:
            break
    if not found:
        raise InputError("`dataset` must have images. Received: none")
    images = np.concatenate(found)[:wanted]
    batch_size = min(batch_size, len(images))
    count = len(images) // batch_size
    return np.split(images[: count * batch_size], count)


def batches(model, dataset, size):
    """Yields batches of images, an array's of a size."""
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
