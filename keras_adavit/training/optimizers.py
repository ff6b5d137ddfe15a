"""AdamW as the recipes use it: no decay where decay harms, and a learning rate of their own for the gates."""

import keras

from keras_adavit.training.schedules import warmup_cosine

# Biases, scales of normalisations, the class token and learned positions are not decayed (method of DeiT).
NOT_DECAYED = ["bias", "beta", "gamma", "class_token", "position"]
GATE_WEIGHTS = r".*_gate/.*"


def adamw(
    learning_rate,
    steps,
    warmup_steps=0,
    final_learning_rate=1e-5,
    weight_decay=0.05,
    clip_norm=None,
    gate_learning_rate=None,
):
    """AdamW with warm-up and cosine decay.

    Args:
        learning_rate: Peak of the learning rate.
        steps: Training steps in all.
        warmup_steps: Steps of linear warm-up among them.
        final_learning_rate: Learning rate at the end.
        weight_decay: Decoupled weight decay, not applied to biases, normalisations, class token and positions.
        clip_norm: Largest norm of a single variable's gradient; `None` does not clip.
        gate_learning_rate: Peak of the gates' own learning rate, whose weights are then not decayed; `None` trains
            them like all others.

    Returns:
        A Keras optimizer.
    """

    def optimizer(peak, decay):
        schedule = warmup_cosine(peak, steps, warmup_steps, min(final_learning_rate, peak))
        adamw = keras.optimizers.AdamW(schedule, weight_decay=decay, clipnorm=clip_norm)
        adamw.exclude_from_weight_decay(var_names=NOT_DECAYED)
        return adamw

    backbone = optimizer(learning_rate, weight_decay)
    if gate_learning_rate is None:
        return backbone
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(backbone, {GATE_WEIGHTS: optimizer(gate_learning_rate, 0.0)})
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
