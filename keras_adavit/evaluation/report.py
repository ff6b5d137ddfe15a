"""What a report says of a model: figures and arrays, before there is a page."""

import dataclasses

import numpy as np

from keras_adavit.errors import InputError
from keras_adavit.evaluation.analysis import Breakdown
from keras_adavit.evaluation.budgets import at_budgets, time_budgets
from keras_adavit.evaluation.evaluate import Evaluation, evaluate, pairs
from keras_adavit.gating.external import OpenPolicy
from keras_adavit.gating.policy import POLICY_KEYS

BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.8)  # where none are given, those in reach of the gates
QUARTERS, PAIRS = 4, 6


@dataclasses.dataclass(frozen=True)
class Examples:
    """Single images with what the model did with them.

    Attributes:
        images: Float array (N, S, S, C), normalised.
        labels, predictions: Integers (N,).
        macs_share: MACs over the dense model's, (N,).
        policy: Dict of float arrays `token_keep` (N, L, T), `head_keep` (N, L, H) and `block_keep` (N, L, 2).
    """

    images: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    macs_share: np.ndarray
    policy: dict


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds an image: of the dense model, of the model with its own thresholds, and at each budget."""

    dense: float
    own: float
    budgets: list[float]


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a report's page shows.

    Attributes:
        evaluation: The `Evaluation` of the model as it is.
        everything: That of the same weights with everything used.
        budgets: A `Budget` each, from the cheapest to the dearest.
        unreached: Targets that no shift of the thresholds reaches.
        times: `Times`; `None` if they were not measured.
        macs_share: MACs of each image over the dense model's, (N,).
        right: Whether each image is classified rightly, (N,).
        quarters: Images from the cheapest quarter to the dearest: dicts of `low`, `high`, `images`, `top1`.
        policy: Dict of `token_keep` (N, L, T), `head_keep` (N, L, H) and `block_keep` (N, L, 2), booleans.
        classes: `ClassFigures`, from the fewest mean MACs to the most.
        cheapest, dearest: `Examples`.
        lost: `Examples` that the dearest budget gets right and the cheapest wrong, as they are at the cheapest.
        lost_count: How many of these there are.
        confusions: Most frequent `(label, prediction, count)` among them, at the cheapest budget.
    """

    evaluation: Evaluation
    everything: Evaluation
    budgets: list
    unreached: list
    times: Times | None
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
    # First, as it is here that an argument may be wrong.
    budgets, unreached = at_budgets(model, validation, calibration, targets or BUDGETS, bool(targets))
    breakdown = Breakdown()
    own = evaluate(model, validation, observe=breakdown.add)
    arrays = breakdown.arrays()
    times = None
    if timed is not None:
        dense, now, each = time_budgets(model, budgets, timed)
        times = Times(dense, now, each)
    right, order = arrays["prediction"] == arrays["label"], np.argsort(arrays["macs"], kind="stable")
    lost = find_lost(budgets, examples)
    chosen = order[:examples], order[::-1][:examples], lost["shown"]
    images = pick(model, validation, np.concatenate(chosen))

    def shown(indices, arrays):
        return Examples(
            images=np.array([images[index] for index in indices]),
            labels=arrays["label"][indices],
            predictions=arrays["prediction"][indices],
            macs_share=arrays["macs"][indices] / model.dense_macs,
            policy={key: arrays[key][indices].astype("float32") for key in POLICY_KEYS},
        )

    share = arrays["macs"] / model.dense_macs
    return Report(
        evaluation=own,
        everything=evaluate(model, validation, OpenPolicy()),
        budgets=budgets,
        unreached=unreached,
        times=times,
        macs_share=share,
        right=right,
        quarters=[describe_part(share, right, part) for part in np.array_split(order, QUARTERS) if len(part)],
        policy={key: arrays[key] for key in POLICY_KEYS},
        classes=breakdown.by_class(),
        cheapest=shown(chosen[0], arrays),
        dearest=shown(chosen[1], arrays),
        lost=shown(chosen[2], budgets[0].arrays if budgets else arrays),
        lost_count=lost["count"],
        confusions=lost["confusions"],
    )


def find_lost(budgets, examples):
    """What the dearest budget gets right and the cheapest wrong: a dict of their `count`, of the indices `shown`, from
    the cheapest on, and of `confusions`."""
    if len(budgets) < 2:
        return {"count": 0, "shown": np.zeros(0, int), "confusions": []}
    labels, cheap = budgets[0].arrays["label"], budgets[0].arrays["prediction"]
    lost = np.flatnonzero((budgets[-1].arrays["prediction"] == labels) & (cheap != labels))
    order = np.argsort(budgets[0].arrays["macs"][lost], kind="stable")
    return {
        "count": len(lost),
        "shown": lost[order][:examples],
        "confusions": count_pairs(labels[lost], cheap[lost]),
    }


def count_pairs(labels, predictions, most=PAIRS):
    """The most frequent pairs, `(label, prediction, count)`."""
    found, counts = np.unique(np.stack([labels, predictions]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(found[0, index]), int(found[1, index]), int(counts[index])) for index in order]


def describe_part(share, right, part):
    """What images of these indices cost and how many are right: a dict."""
    return {
        "low": float(share[part].min()),
        "high": float(share[part].max()),
        "images": len(part),
        "top1": float(right[part].mean()),
    }


def pick(model, dataset, indices):
    """The images of a data set at some indices: a dict."""
    wanted, found, first = set(map(int, indices)), {}, 0
    for images, _ in pairs(model, dataset):
        for index in wanted & set(range(first, first + len(images))):
            found[index] = images[index - first]
        first += len(images)
    return found
