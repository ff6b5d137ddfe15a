"""Pictures of a policy."""

import numpy as np
from keras import ops

from keras_adavit.data.pipeline import denormalize
from keras_adavit.errors import printable
from keras_adavit.evaluation.predict import class_name, softmax
from keras_adavit.files import write_whole

SKIPPED = (0.55, 0.12, 0.12)  # dark red: no photo or digit is like it
FADE = 0.75  # how much of a skipped patch is covered
NAME_LENGTH = 24  # of a class


def save_policy_picture(model, images, labels, path, class_names, mean, std, count=6, outputs=None):
    """Draws which patches each block kept of a few images.

    A row is an image: its own MACs as a share of the dense model's, then the image, then each block with the skipped
    patches covered; below it which heads and sub-layers the block used.

    Args:
        model: An `AdaViTClassifier`.
        images: Array (B, S, S, C), normalised.
        labels: Integers (B,); `None`, where they are not known, names the predicted class and its probability.
        path: PNG file to write.
        class_names: Name of each class; `None` shows their numbers.
        mean, std: The normalisation that the picture undoes.
        count: Most images to draw.
        outputs: The model's outputs for these images, a dict of arrays; by default the gates decide now.
    """
    # The object-oriented interface: pyplot would open a window where there is a screen.
    from matplotlib.figure import Figure

    images = images[:count]
    outputs = model(images, training=False) if outputs is None else outputs
    outputs = {name: ops.convert_to_numpy(value) for name, value in outputs.items()}
    pixels = denormalize(images, mean, std)
    pixels = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
    depth = model.backbone.depth
    figure = Figure(figsize=(1.5 * (depth + 1), 1.95 * len(images) + 0.6), layout="constrained")
    axes = figure.subplots(len(images), depth + 1, squeeze=False)
    figure.suptitle("What each block used (red: skipped)", fontsize=12)
    for row, image in enumerate(pixels):
        share = outputs["macs"][row] / model.dense_macs
        axes[row, 0].imshow(image)
        axes[row, 0].set_title(f"MACs {share:.2f}", fontsize=9)
        label = None if labels is None else labels[row]
        axes[row, 0].set_xlabel(verdict(outputs["logits"][row], label, class_names), fontsize=8)
        for block in range(depth):
            axis = axes[row, block + 1]
            keep = outputs["token_keep"][row, block, 1:]
            attention, mlp = outputs["block_keep"][row, block] > 0.5
            used = keep if attention or mlp else np.zeros_like(keep)
            axis.imshow(cover_skipped(image, used, model.backbone.patch_size))
            axis.set_title(
                f"block {block}: {keep.mean():.0%}" if attention or mlp else f"block {block}: none", fontsize=9
            )
            heads = int(outputs["head_keep"][row, block].sum())
            parts = [f"attention ({heads} heads)" if heads != 1 else "attention (1 head)"] if attention else []
            parts += ["MLP"] if mlp else []
            axis.set_xlabel(" + ".join(parts) or "skipped", fontsize=7)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    with write_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=110)


def verdict(logits, label, class_names):
    """What the model says of an image: the class that it belongs to, if that is known, and what it was taken for."""
    predicted = int(logits.argmax())
    said = short_name(class_names, predicted)
    if label is None:
        return f"{said}\n{softmax(logits[None])[0, predicted]:.0%}"
    true = short_name(class_names, label)
    return true if predicted == label else f"{true},\ntaken for {said}"


def short_name(class_names, label):
    """The name of a class in one line that fits below an image."""
    name = printable(class_name(class_names, label)).replace("$", r"\$")  # which begins a formula
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def cover_skipped(image, keep, patch_size):
    """Covers the skipped patches of one image.

    Args:
        image: Array (S, S, 3) in 0..1.
        keep: Array ((S/patch)²,) of 0 and 1.
        patch_size: Side of a patch in pixels.

    Returns:
        Array (S, S, 3) in 0..1.
    """
    count = image.shape[0] // patch_size
    mask = keep.reshape(count, count).repeat(patch_size, axis=0).repeat(patch_size, axis=1)[..., None]
    covered = (1 - FADE) * image + FADE * np.asarray(SKIPPED)
    return np.where(mask > 0.5, image, covered)
