"""What a report says of a model: figures and arrays, before there is a page."""

import contextlib
import dataclasses

import numpy as np
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.evaluation.analysis import Breakdown
from keras_adavit.evaluation.calibration import calibrate, find_thresholds
from keras_adavit.evaluation.evaluate import Evaluation, evaluate, pairs
from keras_adavit.evaluation.timing import Timing, measure
from keras_adavit.gating.external import OpenPolicy

BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.8)  # where none are given, those in reach of the gates
QUARTERS = 4
KEPT = ("token_keep", "head_keep", "block_keep")


@dataclasses.dataclass(frozen=True)
class Budget:
    """A model whose thresholds are calibrated to a budget.

    Attributes:
        target: MACs aimed at, a share of the dense model's, or an absolute number above 1.
        evaluation: Its `Evaluation`.
        prediction: The predicted class of each image, integers (N,).
        timing: Its `Timing`; `None` if it was not measured.
    """

    target: float
    evaluation: Evaluation
    prediction: np.ndarray
    timing: Timing | None


@dataclasses.dataclass(frozen=True)
class Examples:
    """Single images with what the model did with them.

    Attributes:
        images: Float array (N, S, S, C), normalised.
        labels, predictions: Integers (N,).
        macs_share: MACs over the dense model's, (N,).
        policy: Dict of `token_keep` (N, L, T), `head_keep` (N, L, H) and `block_keep` (N, L, 2).
    """

    images: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    macs_share: np.ndarray
    policy: dict


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a report's page shows.

    Attributes:
        evaluation: Of the model as it is.
        everything: The `Evaluation` of the same weights with everything used.
        budgets: A `Budget` each, from the cheapest to the dearest.
        unreached: Targets that no shift of the thresholds reaches.
        macs_share: MACs of each image over the dense model's, (N,).
        right: Whether each image is classified rightly, (N,).
        quarters: Images from the cheapest quarter to the dearest: dicts of `low`, `high`, `images`, `top1`.
        policy: Dict of `token_keep` (N, L, T), `head_keep` (N, L, H) and `block_keep` (N, L, 2), booleans.
        classes: `ClassFigures`, from the fewest mean MACs to the most.
        cheapest, dearest: `Examples`.
        lost: `Examples` that the dearest budget gets right and the cheapest wrong, as they are at the model's own.
        lost_count: How many of these there are.
        confusions: Most frequent `(label, prediction, count)` among them, of the cheapest budget.
    """

    evaluation: Evaluation
    everything: Evaluation
    budgets: list
    unreached: list
    macs_share: np.ndarray
    right: np.ndarray
    quarters: list
    policy: dict
    classes: list
    cheapest: Examples
    dearest: Examples
    lost: Examples
    lost_count: int
    confusions: list


def make_report(model, validation, calibration, targets=None, timed=None, examples=4):
    """Looks at a model from all sides; its thresholds are in the end as they were.

    Args:
        model: An `AdaViTClassifier` with gates.
        validation: Data set of batches `(images, labels)`, in the same order at every iteration.
        calibration: Images that the thresholds are fitted to, as of `calibrate`.
        targets: Budgets, as of `calibrate`; by default those of `BUDGETS` that are in reach.
        timed: Images to measure speed with, an array (N, S, S, C); `None` measures none.
        examples: How many single images of each kind are kept.

    Returns:
        A `Report`.

    Raises:
        InputError: If the model has no gates, or one of the given targets is out of their reach.
    """
    if model.backbone.gates is None:
        raise InputError("The model must have gates, to have something to report. Received: gates=None")
    breakdown = Breakdown()
    own = evaluate(model, validation, observe=breakdown.add)
    arrays = breakdown.arrays()
    everything = evaluate(model, validation, OpenPolicy())
    budgets, unreached = at_budgets(model, validation, calibration, targets, timed)
    share, right = arrays["macs"] / model.dense_macs, arrays["prediction"] == arrays["label"]
    order = np.argsort(share, kind="stable")

    lost, confusions = np.zeros(0, int), []
    if len(budgets) > 1:
        cheap, dear = budgets[0].prediction, budgets[-1].prediction
        lost = np.flatnonzero((dear == arrays["label"]) & (cheap != arrays["label"]))
        confusions = count_pairs(arrays["label"][lost], cheap[lost])
    chosen = [order[:examples], order[::-1][:examples], lost[np.argsort(share[lost], kind="stable")][:examples]]
    images = pick(model, validation, np.concatenate(chosen))

    def shown(indices):
        return Examples(
            images=np.array([images[index] for index in indices]),
            labels=arrays["label"][indices],
            predictions=arrays["prediction"][indices],
            macs_share=share[indices],
            policy={name: arrays[name][indices].astype("float32") for name in KEPT},
        )

    return Report(
        evaluation=own,
        everything=everything,
        budgets=budgets,
        unreached=unreached,
        macs_share=share,
        right=right,
        quarters=[describe_part(share, right, part) for part in np.array_split(order, QUARTERS) if len(part)],
        policy={name: arrays[name] for name in KEPT},
        classes=breakdown.by_class(),
        cheapest=shown(chosen[0]),
        dearest=shown(chosen[1]),
        lost=shown(chosen[2]),
        lost_count=len(lost),
        confusions=confusions,
    )


def at_budgets(model, validation, calibration, targets, timed):
    """A `Budget` for each target, from the cheapest to the dearest, and the targets that are out of reach."""
    found, unreached = [], []
    with thresholds_kept(model):
        for target in sorted(set(targets or BUDGETS), key=lambda macs: macs / model.dense_macs if macs > 1 else macs):
            try:
                calibrate(model, calibration, target)
            except InputError:
                if targets:
                    raise
                unreached.append(target)
                continue
            predictions = []
            evaluation = evaluate(
                model,
                validation,
                observe=lambda _, outputs, kept=predictions: kept.append(outputs["logits"].argmax(-1)),
            )
            timing = None if timed is None else measure(model, timed, rounds=3)
            found.append(Budget(target, evaluation, np.concatenate(predictions), timing))
    return found, unreached


@contextlib.contextmanager
def thresholds_kept(model):
    """Gives a model's thresholds back in the end, whatever happens."""
    gates = model.backbone.gates
    kinds = [kind for kind in ("tokens", "heads", "blocks") if getattr(gates, kind)]
    before = [(threshold, ops.convert_to_numpy(threshold).copy()) for threshold in find_thresholds(model, kinds)]
    try:
        yield
    finally:
        for threshold, value in before:
            threshold.assign(value)


def describe_part(share, right, part):
    """What images of these indices cost and how many are right: a dict."""
    return {
        "low": float(share[part].min()),
        "high": float(share[part].max()),
        "images": len(part),
        "top1": float(right[part].mean()),
    }


def count_pairs(labels, predictions, most=6):
    """The most frequent pairs, `(label, prediction, count)`."""
    pairs_found, counts = np.unique(np.stack([labels, predictions]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        (int(label), int(said), int(count))
        for (label, said), count in zip(pairs_found.T[order], counts[order], strict=True)
    ]


def pick(model, dataset, indices):
    """The images of a data set at some indices: a dict."""
    wanted, found, first = set(map(int, indices)), {}, 0
    for images, _ in pairs(model, dataset):
        for index in wanted & set(range(first, first + len(images))):
            found[index] = images[index - first]
        first += len(images)
    return found
