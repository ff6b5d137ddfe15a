"""One model at several budgets: what it gets right, and how long it takes."""

import dataclasses
import functools

import numpy as np

from keras_adavit.errors import InputError
from keras_adavit.evaluation.analysis import Breakdown
from keras_adavit.evaluation.calibration import macs_target, mean_macs
from keras_adavit.evaluation.evaluate import Evaluation, evaluate
from keras_adavit.evaluation.thresholds import Thresholds, bisect, find_reach, gate_kinds
from keras_adavit.evaluation.timing import copy, time_in_turns

BATCH, TURNS = 32, 5  # images in a batch that is timed; turns of which a time is the median
STEPS = 16  # figures that a search looks at, at most


@dataclasses.dataclass(frozen=True)
class Budget:
    """A model whose thresholds are calibrated to a budget.

    Attributes:
        target: MACs aimed at, a share of the dense model's, or an absolute number above 1.
        shift: Of the thresholds, see `Thresholds`.
        evaluation: Its `Evaluation`.
        arrays: What a `Breakdown` has of each image, see there.
    """

    target: float
    shift: float
    evaluation: Evaluation
    arrays: dict


def at_budgets(model, validation, calibration, targets, all_of_them):
    """Calibrates a model to budgets and evaluates it at each; its thresholds are in the end as they were.

    Args:
        model: An `AdaViTClassifier` with gates.
        validation: Data set of batches `(images, labels)`.
        calibration: Images that the thresholds are fitted to, as of `calibrate`.
        targets: MACs aimed at, as of `calibrate`.
        all_of_them: Whether a target out of reach is an error; else it is left out.

    Returns:
        A `Budget` for each target, from the cheapest to the dearest, and the list of targets out of reach. The policy
        is among the arrays of the cheapest one only: of many images it fills memory.

    Raises:
        InputError: If a target is not positive, or out of reach of the gates and `all_of_them` are asked for.
    """
    thresholds = Thresholds(model, gate_kinds(model))
    try:
        shifts, unreached = find_shifts(model, calibration, thresholds, targets, all_of_them)
        found = []
        for target, shift in shifts.items():
            thresholds.shift(shift)
            breakdown = Breakdown()
            evaluation = evaluate(model, validation, observe=breakdown.add)
            arrays = breakdown.arrays()
            if found:
                arrays = {"prediction": arrays["prediction"]}
            found.append(Budget(target, shift, evaluation, arrays))
    finally:
        thresholds.restore()
    return found, unreached


def find_shifts(model, images, thresholds, targets, all_of_them):
    """The shift that meets each target, from the cheapest to the dearest, and the list of targets out of reach.

    Unlike in `calibrate` the searches share what they have looked at, and are content with less.
    """

    @functools.cache
    def share_at(shift):
        thresholds.shift(shift)
        return mean_macs(model, images, BATCH) / model.dense_macs

    shifts, unreached = {}, []
    wanted = {given: macs_target(model, given) for given in targets}
    for given, target in sorted(wanted.items(), key=lambda item: item[1].value):
        try:
            reach = find_reach(share_at, target)
        except InputError:
            if all_of_them:
                raise
            unreached.append(given)
            continue
        shifts[given], _ = bisect(share_at, target, reach, target.tolerance / 2, STEPS)
    return shifts, unreached


def time_budgets(model, budgets, images):
    """Times the dense model of the same weights, the model as it is, and at each budget, in turns on the same images.

    Adaptive ones are computed packed. All are copies; the model stays as it is. See `timing.measure`.

    Args:
        model: An `AdaViTClassifier` with gates.
        budgets: List of `Budget`.
        images: Array (N, S, S, C); those beyond the last whole batch of 32 are left out, unless they are fewer.

    Returns:
        Milliseconds an image: of the dense model, of the model as it is, and a list of those of the budgets.
    """
    batch = min(BATCH, len(images))
    count = len(images) // batch
    batches = np.split(images[: count * batch], count)
    dense, twin = copy(model, gates=None), copy(model, gates=model.backbone.gates)
    twin.execution = "packed"
    thresholds = Thresholds(twin, gate_kinds(twin))

    def at(shift):
        def turn():
            thresholds.shift(shift)
            predict(twin)

        return turn

    def predict(timed):
        for each in batches:
            timed.predict_on_batch(each)

    functions = {"dense": lambda: predict(dense), "own": at(0.0)}
    functions |= {index: at(budget.shift) for index, budget in enumerate(budgets)}
    seconds = time_in_turns(functions, TURNS)
    milliseconds = {name: 1000 * each / (count * batch) for name, each in seconds.items()}
    return milliseconds["dense"], milliseconds["own"], [milliseconds[index] for index in range(len(budgets))]
