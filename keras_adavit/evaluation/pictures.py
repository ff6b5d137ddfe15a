"""What a model looked at in a few images, as a figure."""

from keras import ops

from keras_adavit.data.pipeline import denormalize
from keras_adavit.errors import printable
from keras_adavit.evaluation.predict import class_name, softmax
from keras_adavit.visualize.patches import kept_patches

NAME_LENGTH = 24  # of a class


def policy_picture(model, images, labels, class_names, mean, std, outputs=None, **options):
    """Draws which patches each block kept of a few images, with each one's MACs and class.

    Args:
        model: An `AdaViTClassifier`.
        images: Array (N, S, S, C), normalised.
        labels: Integers (N,); `None`, where they are not known, names the predicted class and its probability.
        class_names: Name of each class; `None` shows their numbers.
        mean, std: The normalisation that the picture undoes.
        outputs: The model's outputs for these images, a dict of arrays; by default the gates decide now.
        **options: As of `visualize.kept_patches`.

    Returns:
        A matplotlib figure.
    """
    outputs = model(images, training=False) if outputs is None else outputs
    outputs = {name: ops.convert_to_numpy(value) for name, value in outputs.items()}
    headings = [f"MACs {macs / model.dense_macs:.2f}" for macs in outputs["macs"]]
    labels = [None] * len(images) if labels is None else labels
    captions = [verdict(logits, label, class_names) for logits, label in zip(outputs["logits"], labels, strict=True)]
    return kept_patches(denormalize(images, mean, std), outputs, headings, captions, **options)


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
