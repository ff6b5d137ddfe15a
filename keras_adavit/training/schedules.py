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


def warmup_cosine(peak, steps, warmup_steps=0, final=0.0, start=0.0, cooldown_steps=0):
    """Linear warm-up from `start` to `peak`, then a cosine to `final`; `steps` counts all.

    Args:
        peak: Largest learning rate.
        steps: Training steps in all.
        warmup_steps: How many of them warm up; cut to `steps - 1`.
        final: Learning rate at the end.
        start: Learning rate at the first step.
        cooldown_steps: How many of them, at the end, have the learning rate `final`.
    """
    steps = max(int(steps) - int(cooldown_steps), 1)
    warmup_steps = min(int(warmup_steps), steps - 1)
    decay_steps = steps - warmup_steps
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(float(peak), decay_steps, alpha=final / peak)
    return keras.optimizers.schedules.CosineDecay(
        float(start), decay_steps, alpha=final / peak, warmup_target=float(peak), warmup_steps=warmup_steps
    )


@keras.saving.register_keras_serializable("keras_adavit")
class EveryEpoch(Schedule):
    """A schedule that changes from epoch to epoch and not within one.

    Args:
        schedule: A Keras learning-rate schedule.
        steps_per_epoch: Training steps of an epoch, in which it has the value of the epoch's first step.
    """

    def __init__(self, schedule, steps_per_epoch):
        super().__init__()
        self.schedule = schedule
        self.steps_per_epoch = int(steps_per_epoch)

    def __call__(self, step):
        step = ops.cast(step, "int32")
        return self.schedule(step - step % self.steps_per_epoch)

    def get_config(self):
        return {"schedule": serialize(self.schedule), "steps_per_epoch": self.steps_per_epoch}

    @classmethod
    def from_config(cls, config):
        return cls(deserialize(config["schedule"]), config["steps_per_epoch"])


def serialize(number_or_schedule):
    """JSON form of a number, a schedule or `None`."""
    if isinstance(number_or_schedule, Schedule):
        return keras.saving.serialize_keras_object(number_or_schedule)
    return number_or_schedule


def deserialize(config):
    """The inverse of `serialize`."""
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config
