"""What a model's decisions are worth: against the same for all images, and against those of another image."""

import dataclasses

import numpy as np
from scipy import stats

from keras_adavit.errors import InputError
from keras_adavit.evaluation.analysis import Breakdown
from keras_adavit.evaluation.evaluate import evaluate, pairs, with_keeps
from keras_adavit.gating.policy import POLICY_KEYS
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.validation import refuse

SHIFTS = (1 / 2, 1 / 3, 1 / 5)  # of the images: how far away another image is


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare_decisions` found.

    Attributes:
        images: Images counted.
        own, constant, swapped: Accuracies in [0, 1] under the model's own decisions, under its constant policy, and
            under the decisions of another image, the mean of three such.
        own_share, constant_share: Mean MACs over the dense model's.
        deviation: Standard deviation over images of the MACs, over their mean.
        rank_correlation: Spearman's, in [-1, 1], of an image's MACs and the dense model's loss: positive where hard
            images cost more; `None` without a dense model, or where all images cost the same.
    """

    images: int
    own: float
    constant: float
    swapped: float
    own_share: float
    constant_share: float
    deviation: float
    rank_correlation: float | None


def compare_decisions(model, dataset, dense=None):
    """Replaces a model's decisions by others that use as much.

    A model that decides by image is right more often than under its *constant policy*, see `constant_policy`, and than
    under the decisions of another image. Where it is not, a smaller model would do as well.

    Args:
        model: An `AdaViTClassifier` with gates.
        dataset: Batches `(images, labels)`, the same ones at every iteration; it is run through five times.
        dense: An `AdaViTClassifier`, usually the dense model, whose loss says how hard an image is.

    Returns:
        A `Comparison`.

    Raises:
        InputError: If the model has no gates, or there are fewer than two images.
    """
    if not isinstance(model, AdaViTClassifier) or model.backbone.gates is None:
        refuse("model", "an `AdaViTClassifier` with gates", model)
    breakdown = Breakdown()
    evaluate(model, dataset, observe=breakdown.add)
    found = breakdown.arrays()
    count = len(found["label"])
    if count < 2:
        raise InputError(f"`dataset` must have two images or more. Received: {count}")
    policy = {key: found[key] for key in POLICY_KEYS}
    constant = constant_policy(policy)
    everywhere = {key: np.broadcast_to(keep, (count, *keep.shape)) for key, keep in constant.items()}
    steps = [round(count * shift) or 1 for shift in SHIFTS]
    others = [{key: np.roll(keep, step, axis=0) for key, keep in policy.items()} for step in steps]
    (constant_top1, constant_macs), *swapped = measure_policies(model, dataset, [everywhere, *others])
    macs = found["macs"].astype("float64")
    correlation = None
    if dense is not None and np.ptp(macs):
        correlation = float(stats.spearmanr(macs, losses(dense, dataset)).statistic)
    return Comparison(
        images=count,
        own=float(np.mean(found["prediction"] == found["label"])),
        constant=constant_top1,
        swapped=float(np.mean([top1 for top1, _ in swapped])),
        own_share=float(macs.mean() / model.dense_macs),
        constant_share=constant_macs / model.dense_macs,
        deviation=float(macs.std() / macs.mean()),
        rank_correlation=correlation,
    )


def constant_policy(policy):
    """The policy nearest to a mean one that is the same for every image.

    In each block the patch positions that most images use are kept, and the heads that most use, as many as an image
    uses there in the mean; of all sub-layers those that most use, likewise.

    Args:
        policy: Dict of arrays `token_keep` (B, L, T), `head_keep` (B, L, H), `block_keep` (B, L, 2).

    Returns:
        A dict of float32 arrays (L, T), (L, H), (L, 2), exactly 0 or 1; the class token is kept.
    """
    usage = {key: np.mean(policy[key], axis=0, dtype="float64") for key in POLICY_KEYS}
    tokens = np.stack([most_used(block) for block in usage["token_keep"]])
    heads = np.stack([most_used(block) for block in usage["head_keep"]])
    sublayers = most_used(usage["block_keep"].ravel()).reshape(usage["block_keep"].shape)
    return dict(zip(POLICY_KEYS, (tokens, heads, sublayers), strict=True))


def most_used(usage):
    """1 for the most used of some parts (N,), as many as their usages add up to, 0 for the others; float32."""
    keep = np.zeros(len(usage), "float32")
    keep[np.argsort(-usage, kind="stable")[: round(float(usage.sum()))]] = 1.0
    return keep


def measure_policies(model, dataset, policies):
    """Accuracy, and mean MACs, of a model under each of some policies: dicts of arrays over all images."""
    run = with_keeps(model)
    right, macs = np.zeros(len(policies)), np.zeros(len(policies))
    start = 0
    for images, labels in pairs(model, dataset):
        stop = start + len(labels)
        for number, policy in enumerate(policies):
            outputs = run(images, {key: keep[start:stop].astype("float32") for key, keep in policy.items()})
            right[number] += np.sum(outputs["logits"].argmax(axis=-1) == labels)
            macs[number] += outputs["macs"].sum(dtype="float64")
        start = stop
    return list(zip((right / start).tolist(), (macs / start).tolist(), strict=True))


def losses(model, dataset):
    """Cross-entropy in nats of each image, (B,)."""
    found = []

    def observe(labels, outputs):
        logits = outputs["logits"].astype("float64")
        found.append(np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(labels)), labels])

    evaluate(model, dataset, observe=observe)
    return np.concatenate(found)
