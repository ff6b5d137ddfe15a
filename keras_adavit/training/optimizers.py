"""AdamW as the recipes use it: no decay where decay harms, and learning rates that differ between weights."""

import re

import keras

from keras_adavit.devices.dispatch import replicas, sum_gradients
from keras_adavit.training.schedules import EveryEpoch, warmup_cosine

# Biases, scales of normalisations, the class token, positions and gates are not decayed (method of DeiT).
NOT_DECAYED_BUT_GATES = r"(^|/)(bias|beta|gamma|class_token|position)$"
NOT_DECAYED = NOT_DECAYED_BUT_GATES + "|_gate/"
GATES = r"_gate/|/policy_norm/"  # and the normalisation that they read through
GATE_KINDS = ("token", "head", "block")


@keras.saving.register_keras_serializable("keras_adavit")
class ScaledAdamW(keras.optimizers.Adam):
    """AdamW whose learning rate and decay are multiplied, weight by weight, by factors of their own.

    One optimizer for all weights, so that clipping by the global norm, averaged weights and gradient accumulation
    mean what they say.

    Args:
        learning_rate: Number or Keras schedule.
        decay: Decoupled weight decay.
        not_decayed: Regular expression, searched in a weight's path; what it finds is not decayed.
        factors: Dict from a regular expression to a positive factor. A weight's factor is the product of those whose
            expression is found in its path.
        **kwargs: As of `keras.optimizers.Adam`.
    """

    def __init__(
        self, learning_rate=1e-3, decay=0.0, not_decayed=NOT_DECAYED, factors=None, name="scaled_adamw", **kwargs
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.decay = decay
        self.not_decayed = not_decayed
        self.factors = dict(factors or {})

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._scales = [scale_of(variable.path, self.factors) for variable in variables]
        self._decays = [0.0 if re.search(self.not_decayed, variable.path) else self.decay for variable in variables]

    def _clip_gradients(self, grads):
        # Of the whole batch, not of a device's part of it. Keras sums what the devices return.
        if replicas() == 1 or not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return super()._clip_gradients(grads)
        return [gradient / replicas() for gradient in super()._clip_gradients(sum_gradients(list(grads)))]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = keras.ops.cast(learning_rate, variable.dtype) * self._scales[index]
        if self._decays[index]:
            self.assign_sub(variable, variable * (rate * self._decays[index]))
        super().update_step(gradient, variable, rate)

    def get_config(self):
        return {
            **super().get_config(),
            "decay": self.decay,
            "not_decayed": self.not_decayed,
            "factors": self.factors,
        }


def scale_of(path, factors):
    """The product of the factors whose regular expression is found in a path."""
    scale = 1.0
    for pattern, factor in factors.items():
        scale *= factor if re.search(pattern, path) else 1.0
    return scale


def largest_factors(optimizer, variables):
    """The largest factor of the learning rate in the backbone, and in the gates: a dict of floats.

    Args:
        optimizer: A Keras optimizer; 1 but for a `ScaledAdamW`.
        variables: The variables that it trains.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    factors, scales = getattr(optimizer, "factors", {}), {"backbone": [], "gates": []}
    for variable in variables:
        kind = "gates" if re.search(GATES, variable.path) else "backbone"
        scales[kind].append(scale_of(variable.path, factors))
    return {kind: max(each) for kind, each in scales.items() if each}


def layer_factors(decay, depth):
    """Factors of layer-wise learning-rate decay, as in BEiT and MAE: the first layers, which are general, learn slower.

    Block i of L has decay^(L − i), stem, class token and positions have decay^(L + 1). The final normalisation, the
    classifier and the gates, which are new in a fine-tuned model, have 1.

    Args:
        decay: In (0, 1]; 1 gives every layer the same rate.
        depth: Blocks L.

    Returns:
        A dict as of `ScaledAdamW`.
    """
    if decay == 1:
        return {}
    blocks = {rf"(^|/)block_{index}/(?!\w+_gate/|policy_norm/)": decay ** (depth - index) for index in range(depth)}
    return {r"(^|/)(stem/|(class_token|position)$)": decay ** (depth + 1), **blocks}


def gate_factors(rate, scales):
    """Factors of gates and of the normalisation that they read through.

    Args:
        rate: Factor of all.
        scales: Dict of another factor for each of `GATE_KINDS`.
    """
    kinds = {rf"/{kind}_gate/": scale for kind, scale in scales.items()}
    return {pattern: factor for pattern, factor in {GATES: rate, **kinds}.items() if factor != 1}


def adamw(
    learning_rate,
    steps,
    warmup_steps=0,
    final_learning_rate=1e-5,
    weight_decay=0.05,
    clip_norm=None,
    global_clip_norm=None,
    factors=None,
    average=None,
    accumulate=1,
    first_learning_rate=0.0,
    cooldown_steps=0,
    steps_per_epoch=None,
    epsilon=1e-7,
    decay_gates=False,
):
    """AdamW with warm-up and cosine decay.

    Args:
        learning_rate: Peak of the learning rate.
        steps: Training steps in all.
        warmup_steps: Steps of linear warm-up among them.
        final_learning_rate: Learning rate at the end.
        weight_decay: Decoupled weight decay, not applied to biases, normalisations, class token, positions and gates.
        clip_norm: Largest norm of a single variable's gradient; `None` does not clip.
        global_clip_norm: Largest norm of all gradients together; `None` does not clip.
        factors: Factors of the learning rate, see `ScaledAdamW`.
        average: Momentum an update, in [0, 1), of the moving average of the weights; `None` keeps none.
        accumulate: Batches whose mean gradient makes one update; steps count batches.
        first_learning_rate: Learning rate at the beginning of the warm-up.
        cooldown_steps: Steps at the end that have the final learning rate.
        steps_per_epoch: Steps for which the learning rate stays as it is; `None` changes it at every step.
        epsilon: Added to the root of the second moment.
        decay_gates: Whether the gates' kernels are decayed too; their biases never are.

    Returns:
        A Keras optimizer.
    """
    # Keras' schedules count batches, also where several make one update.
    final, first = min(final_learning_rate, learning_rate), min(first_learning_rate, learning_rate)
    schedule = warmup_cosine(learning_rate, steps, warmup_steps, final, first, cooldown_steps)
    return ScaledAdamW(
        schedule if steps_per_epoch is None else EveryEpoch(schedule, steps_per_epoch),
        epsilon=epsilon,
        decay=weight_decay,
        not_decayed=NOT_DECAYED_BUT_GATES if decay_gates else NOT_DECAYED,
        factors=factors,
        clipnorm=clip_norm,
        global_clipnorm=global_clip_norm,
        use_ema=average is not None,
        # Keras averages after every batch, also where only every n-th changes the weights.
        ema_momentum=0.99 if average is None else average ** (1 / accumulate),
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
    )


def portable_config(config):
    """A saved optimizer's configuration that every backend can read.

    Keras 3.15 records its optimizers under the module of their torch implementation when it runs on torch, and then
    cannot use them on another backend.
    """
    if isinstance(config, dict):
        config = {name: portable_config(value) for name, value in config.items()}
        if str(config.get("module")).startswith("keras.src.backend.torch.optimizers"):
            config |= {"module": "keras.optimizers", "registered_name": None}
    return config
