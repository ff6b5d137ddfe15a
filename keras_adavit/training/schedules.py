"""Numbers that may follow a schedule: a float, or any Keras learning-rate schedule of the training step."""

import keras
from keras import ops

Schedule = keras.optimizers.schedules.LearningRateSchedule


def value_at(number_or_schedule, step):
    """The number itself, or the schedule's value at `step` (scalar tensor), in float32."""
    if isinstance(number_or_schedule, Schedule):
        return ops.cast(number_or_schedule(step), "float32")
    return ops.convert_to_tensor(number_or_schedule, dtype="float32")


def linear(start, end, steps):
    """A straight line from `start` to `end` over `steps` training steps, constant afterwards."""
    return keras.optimizers.schedules.PolynomialDecay(float(start), max(int(steps), 1), float(end), power=1.0)


def warmup_cosine(peak, steps, warmup_steps=0, final=0.0, start=0.0):
    """Linear warm-up from `start` to `peak`, then a cosine to `final`; `steps` counts both.

    Args:
        peak: Largest learning rate.
        steps: Training steps in all.
        warmup_steps: How many of them warm up; cut to `steps - 1`.
        final: Learning rate at the end.
        start: Learning rate at the first step.
    """
    warmup_steps = min(int(warmup_steps), max(int(steps) - 1, 0))
    decay_steps = max(int(steps) - warmup_steps, 1)
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(float(peak), decay_steps, alpha=final / peak)
    return keras.optimizers.schedules.CosineDecay(
        float(start), decay_steps, alpha=final / peak, warmup_target=float(peak), warmup_steps=warmup_steps
    )


def serialize(number_or_schedule):
    """JSON form of a number, a schedule or `None`."""
    if isinstance(number_or_schedule, Schedule):
        return keras.saving.serialize_keras_object(number_or_schedule)
    return number_or_schedule


def deserialize(config):
    """The inverse of `serialize`."""
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config
