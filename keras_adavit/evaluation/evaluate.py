"""Evaluation: accuracy, MACs and usage of a model over a data set, every image counted once."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.gating.external import check_policy
from keras_adavit.gating.reduction import TokenReduction
from keras_adavit.models.classifier import AdaViTClassifier
from keras_adavit.models.input_data import check_images, check_labels, iterate
from keras_adavit.models.validation import describe, refuse

SHOWN = 3  # classes that a message lists


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        images: Images counted.
        top1, top5: Accuracies in [0, 1]; with fewer than six classes `top5` is 1.
        loss: Mean cross-entropy in nats.
        macs_mean, macs_std, macs_p5, macs_p95: Mean, standard deviation and percentiles of the images' MACs.
        macs_share: `macs_mean` over the dense model's MACs.
        token_usage, head_usage, attention_usage, mlp_usage: Mean use in each block, L numbers.
        blank_patches: Share of patches that are of one colour.
        blank_keep, ink_keep: How often a gated patch of one colour, or another patch, is kept; `None` where there is
            none.
    """

    images: int
    top1: float
    top5: float
    loss: float
    macs_mean: float
    macs_std: float
    macs_p5: float
    macs_p95: float
    macs_share: float
    token_usage: list[float]
    head_usage: list[float]
    attention_usage: list[float]
    mlp_usage: list[float]
    blank_patches: float
    blank_keep: float | None
    ink_keep: float | None


def evaluate(model, dataset, policy=None, observe=None):
    """Runs the model over batches `(images, labels)`.

    Args:
        model: An `AdaViTClassifier`.
        dataset: Iterable of batches, `images` float32 (B, S, S, C), `labels` integers (B,); or (B, K), 1 for each of an
            image's labels, of which any is right.
        policy: A `RandomPolicy`, drawn anew for each batch, an `OpenPolicy`, a `TopKPolicy` or a `MergePolicy`; by
            default the gates decide.
        observe: Function that is also given each batch's labels (B,) and outputs, as arrays; of several labels the one
            that is predicted, or else the first.

    Returns:
        An `Evaluation`.

    Raises:
        InputError: If an argument is something else, there is no image, a label is not in [0, K), or the policy does
            not fit the model.
    """
    if not isinstance(model, AdaViTClassifier):
        refuse("model", "an `AdaViTClassifier`", model)
    if observe is not None and not callable(observe):
        refuse("observe", "a function or None", observe)
    run = predictor(model, policy)
    batches = []
    for number, (images, labels) in enumerate(pairs(model, dataset, several=True)):
        outputs = run(ops.convert_to_tensor(images), number)
        batches.append(summarize(model, images, labels, outputs))
        if observe is not None:
            observe(labels if labels.ndim == 1 else one_of(labels, outputs["logits"]), outputs)
    if not batches:
        raise InputError("`dataset` must have at least one image. Received: none")
    total = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    mean = {name: values.mean(axis=0) for name, values in total.items()}
    blank, kept = total["blank"], total["patch_keep"]
    gated = model.backbone.gates is not None or policy is not None
    return Evaluation(
        images=len(total["loss"]),
        top1=float(mean["top1"]),
        top5=float(mean["top5"]),
        loss=float(mean["loss"]),
        macs_mean=float(mean["macs"]),
        macs_std=float(total["macs"].std()),
        macs_p5=float(np.percentile(total["macs"], 5)),
        macs_p95=float(np.percentile(total["macs"], 95)),
        macs_share=float(mean["macs"] / model.dense_macs),
        token_usage=mean["tokens"].tolist(),
        head_usage=mean["heads"].tolist(),
        attention_usage=mean["sublayers"][:, 0].tolist(),
        mlp_usage=mean["sublayers"][:, 1].tolist(),
        blank_patches=float(blank.mean()),
        blank_keep=float(kept[blank].mean()) if gated and blank.any() else None,
        ink_keep=float(kept[~blank].mean()) if gated and not blank.all() else None,
    )


def one_of(labels, logits):
    """Of several labels of an image (B, K) the one that is predicted, or else the first: integers (B,)."""
    prediction = logits.argmax(axis=-1)
    right = labels[np.arange(len(labels)), prediction] == 1
    return np.where(right, prediction, labels.argmax(axis=-1))


def pairs(model, dataset, several=False):
    """Yields a data set's batches of images and labels as arrays, each checked; empty ones are left out."""
    for images in iterate(dataset):
        if not isinstance(images, (tuple, list)) or len(images) != 2:
            raise InputError(f"`dataset` must give pairs (images, labels). Received: {describe(images)}")
        images, labels = (ops.convert_to_numpy(part) if hasattr(part, "dtype") else part for part in images)
        check_images("dataset", images, model.backbone.image_shape)
        check_labels("dataset", labels, model.num_classes)
        marked = several and labels.ndim == 2 and labels.shape[1] == model.num_classes and labels.any(axis=1).all()
        if not (labels.ndim == 1 or marked) or labels.dtype.kind not in "iu" or len(labels) != len(images):
            raise InputError(
                f"`dataset` must give one integer label for each image. Received: {describe(labels)} for "
                f"{len(images)} images"
            )
        if len(images):
            yield images, labels


def predictor(model, policy):
    """A compiled function from a batch of images and its number to the model's outputs, a dict of arrays."""
    if policy is None:
        return lambda images, number: model.predict_on_batch(images)
    check_policy(policy, model.backbone)
    if isinstance(policy, dict):
        refuse("policy", "a `RandomPolicy`, an `OpenPolicy`, a `TopKPolicy`, a `MergePolicy` or None", policy)
    if isinstance(policy, TokenReduction):
        images = keras.Input(model.backbone.image_shape, name="images")
        reduced = around(model, images, policy)
        return lambda images, number: reduced.predict_on_batch(images)
    decide = with_keeps(model)
    return lambda images, number: decide(images, policy(model.backbone.policy_shapes(len(images)), number))


def with_keeps(model):
    """A compiled function from a batch of images and its decisions to the model's outputs, a dict of arrays."""
    shapes = model.backbone.policy_shapes(None)
    given = {key: keras.Input(shape[1:], name=key) for key, shape in shapes.items()}
    images = keras.Input(model.backbone.image_shape, name="images")
    with_policy = around(model, images, given, given)
    return lambda images, keeps: with_policy.predict_on_batch({"images": images, **keeps})


def around(model, images, policy, given=None):
    """A model of symbolic `images`, and of `given` ones, that calls `model` with a policy, compiled as it is."""
    inputs = images if given is None else {"images": images, **given}
    outer = keras.Model(inputs, model(images, policy=policy))
    outer.compile(jit_compile=model.jit_compile)
    return outer


def summarize(model, images, labels, outputs):
    """What is kept of a batch, each image's own: a dict of arrays (B, ...)."""
    logits = outputs["logits"].astype("float64")
    top = logits.max(axis=-1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
    if labels.ndim == 1:
        own = best = logits[np.arange(len(labels)), labels]
    else:
        right = np.where(labels == 1, logits, -np.inf)
        best = right.max(axis=-1)
        own = top + np.log(np.exp(right - top[:, None]).sum(axis=-1))
    rank = (~(logits < best[:, None])).sum(axis=-1) - 1  # so that ties, and logits that are no numbers, count as wrong
    gates = model.backbone.gates
    first = gates.first_token_gated_block if gates else 0
    return {
        "loss": log_sum - own,
        "top1": rank < 1,
        "top5": rank < 5,
        "macs": outputs["macs"].astype("float64"),
        "tokens": outputs["token_keep"].mean(axis=2),  # (B, L)
        "heads": outputs["head_keep"].mean(axis=2),
        "sublayers": outputs["block_keep"],  # (B, L, 2)
        "blank": blank_patches(images, model.backbone.patch_size),  # (B, T-1)
        "patch_keep": outputs["token_keep"][:, first:, 1:].mean(axis=1),
    }


def blank_patches(images, patch_size):
    """Which patches are of one colour.

    Args:
        images: Array (B, S, S, C).
        patch_size: Side of a patch in pixels.

    Returns:
        Boolean array (B, (S/patch)²).
    """
    batch, side, _, channels = images.shape
    count = side // patch_size
    patches = images.reshape(batch, count, patch_size, count, patch_size, channels).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(batch, count * count, patch_size * patch_size, channels)
    return (np.ptp(patches, axis=2) < 1e-3).all(axis=-1)


def check_data(model, splits, image_shape):
    """Raises `InputError` unless the model takes images and classes of this data."""
    expected = model.backbone.image_shape
    if tuple(image_shape) != expected:
        raise InputError(f"The data must have images {expected}, as the model. Received: images {tuple(image_shape)}")
    if len(splits.class_names) != model.num_classes:
        raise InputError(
            f"The data must have {model.num_classes} classes, as the model. Received: {len(splits.class_names)} classes"
        )
    check_class_order(model, splits.class_names)


def check_class_order(model, class_names):
    """Raises `InputError` unless the classes are the model's, in its order, if it knows their names."""
    if model.class_names is None or tuple(class_names) == model.class_names:
        return
    pairs = enumerate(zip(model.class_names, class_names, strict=True))
    differ = [
        f"class {number} {describe(other)}, of the model {describe(own)}"
        for number, (own, other) in pairs
        if own != other
    ]
    more = f", and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
    same = set(class_names) == set(model.class_names)
    raise InputError(
        f"The data must have the model's classes{' in its order' if same else ''}. "
        f"Received: {'the same in another order: ' if same else ''}{'; '.join(differ[:SHOWN])}{more}"
    )
