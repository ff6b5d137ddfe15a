"""Distillation: the adaptive model imitates a dense teacher where it computes at all (paper, section 3.3)."""

import contextlib
import dataclasses

import keras
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.settings import NonNegativeFloat, PositiveFloat, settings

KINDS = ("logit", "attention", "token")
# What two models must have in common for a term of each kind; any teacher must see the same images.
SIZES = {
    "logit": ("num_classes",),
    "attention": ("depth", "num_heads", "num_tokens"),
    "token": ("depth", "width"),
}
DETAILS = {"logit": (), "attention": ("class_attention",), "token": ("class_tokens",)}


@keras.saving.register_keras_serializable("keras_adavit")
@settings
class DistillationLoss:
    """How far a model is from its teacher; a term without weight is not computed.

    - logits: cross-entropy of the softmax at `temperature`, teacher against student, the mean over images
    - attention: |student − teacher| of the class token's attention, summed over tokens and blocks, the mean over images
      and heads; zero for a skipped head, and in a block whose attention the image skips
    - tokens: (student − teacher)² of the class token after each block, summed over blocks, the mean over images and
      channels; zero in a block whose MLP the image skips

    ```python
    model.compile("adamw", ka.CrossEntropy(), teacher=dense, distillation=ka.DistillationLoss(temperature=2.0))
    ```

    The student's decisions mask the last two without gradient: the gates are not taught to skip what differs.

    Args:
        logit_weight, attention_weight, token_weight: Weights of the terms in the total loss; the published ones.
        temperature: Positive; divides the logits of both.

    Raises:
        InputError: If a weight is negative, all are zero, or the temperature is not positive.
    """

    logit_weight: NonNegativeFloat = 0.5
    attention_weight: NonNegativeFloat = 0.5
    token_weight: NonNegativeFloat = 0.1
    temperature: PositiveFloat = 5.0

    def __post_init__(self):
        if not self.kinds:
            raise InputError(
                "One of `logit_weight`, `attention_weight` and `token_weight` must be positive. Received: all zero"
            )

    @property
    def kinds(self):
        """Those of `KINDS` that have a weight."""
        return tuple(kind for kind in KINDS if getattr(self, f"{kind}_weight") > 0)

    @property
    def details(self):
        """Details that the terms read of both models, see `AdaViTClassifier.call`."""
        return tuple(name for kind in self.kinds for name in DETAILS[kind])

    def __call__(self, outputs, taught):
        """The terms, each unweighted.

        Args:
            outputs: The student's outputs, a dict of `logits` (B, K), `head_keep` (B, L, H), `block_keep` (B, L, 2)
                and, for the terms that have a weight, `class_attention` (B, L, H, T), `class_tokens` (B, L, D).
            taught: The teacher's outputs, the same but for the keeps.

        Returns:
            A dict of float32 scalars: of `logit`, `attention` and `token` those that have a weight.
        """
        heads, sublayers = ops.stop_gradient(outputs["head_keep"]), ops.stop_gradient(outputs["block_keep"])
        terms = {}
        for kind in self.kinds:
            if kind == "logit":
                terms[kind] = soft_cross_entropy(outputs["logits"], taught["logits"], self.temperature)
            elif kind == "attention":
                keep = heads * sublayers[..., :1]  # (B, L, H)
                terms[kind] = attention_distance(outputs["class_attention"], taught["class_attention"], keep)
            else:
                terms[kind] = token_distance(outputs["class_tokens"], taught["class_tokens"], sublayers[..., 1])
        return terms

    def total(self, terms):
        """The weighted sum of the terms: a scalar."""
        return sum(getattr(self, f"{kind}_weight") * term for kind, term in terms.items())

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def soft_cross_entropy(logits, taught, temperature):
    """Cross-entropy in nats of two tensors of logits (B, K) at a temperature: a scalar."""
    target = ops.softmax(taught / temperature, axis=-1)
    return -ops.mean(ops.sum(target * ops.log_softmax(logits / temperature, axis=-1), axis=-1))


def attention_distance(attention, taught, keep):
    """L1 distance of attentions (B, L, H, T) where `keep` (B, L, H) is 1: a scalar."""
    distance = ops.sum(ops.abs(attention - taught), axis=-1)  # (B, L, H)
    return ops.sum(ops.mean(keep * distance, axis=(0, 2)))


def token_distance(tokens, taught, keep):
    """Squared distance of class tokens (B, L, D) where `keep` (B, L) is 1: a scalar."""
    difference = ops.cast(tokens, "float32") - ops.cast(taught, "float32")
    return ops.sum(ops.mean(keep * ops.mean(ops.square(difference), axis=-1), axis=0))


class Teacher:
    """A model that another one imitates.

    A plain object, so that Keras does not take the teacher's weights for the student's: they are neither trained nor
    saved with it. TensorFlow and torch read them at every step. On JAX they are constants of the compiled training
    step, which costs memory once and seconds of compilation, and keeps them out of the state that a step gives away.

    Args:
        model: An `AdaViTClassifier`.
    """

    def __init__(self, model):
        self.model = model

    def __call__(self, images, details):
        """The teacher's outputs in inference mode, without gradient, with the given `details`."""
        with without_gradient():
            outputs = self.model(images, training=False, details=details)
        return {name: ops.stop_gradient(value) for name, value in outputs.items()}


def without_gradient():
    """On torch a context that records nothing for the gradient; elsewhere `ops.stop_gradient` is enough."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


def check_teacher(student, teacher, distillation):
    """Raises `InputError` unless `teacher` can teach `student` (both `AdaViTClassifier`) all terms of a loss."""
    own, other = sizes_of(student), sizes_of(teacher)
    needed = {kind: SIZES[kind] for kind in distillation.kinds} | {"images": ("image_size", "channels")}
    differ = {kind: [name for name in names if own[name] != other[name]] for kind, names in needed.items()}
    names = list(dict.fromkeys(name for each in differ.values() for name in each))
    if not names:
        return
    blamed = [kind for kind in distillation.kinds if differ[kind]]
    remedy = ""
    if not differ["images"] and len(blamed) < len(distillation.kinds):
        remedy = f", or {' and '.join(f'`{kind}_weight`' for kind in blamed)} be 0"
    received = ", ".join(f"{name}={other[name]} instead of {own[name]}" for name in names)
    raise InputError(f"`teacher` must have the model's {', '.join(names)}{remedy}. Received: {received}")


def sizes_of(model):
    """The sizes of `SIZES` and of the images, of an `AdaViTClassifier`."""
    names = ("image_size", "channels", "depth", "num_heads", "num_tokens", "width")
    return {"num_classes": model.num_classes, **{name: getattr(model.backbone, name) for name in names}}
