"""Checks of what `AdaViTClassifier.compile` is given, against the model."""

import keras

from keras_adavit.errors import InputError
from keras_adavit.gating.external import RandomPolicy, check_policy
from keras_adavit.gating.reduction import TokenReduction
from keras_adavit.models.validation import check_positive, refuse
from keras_adavit.training import schedules
from keras_adavit.training.budget import BudgetLoss
from keras_adavit.training.distillation import DistillationLoss, check_teacher


def check_budget(model, budget):
    """Raises `InputError` unless it is `None` or a `BudgetLoss` of what the model gates."""
    if budget is None:
        return
    if not isinstance(budget, BudgetLoss):
        refuse("budget", "a `BudgetLoss` or None", budget)
    budget.check_model(model.backbone, model.dense_macs)


def check_temperature(model, temperature):
    """The temperature, a number as a `float`; raises `InputError` unless a model with gates gets such or a schedule."""
    if temperature is None:
        return None
    if model.backbone.gates is None:
        raise InputError(f"`temperature` needs a model with gates. Received: temperature={temperature!r}")
    return temperature if isinstance(temperature, schedules.Schedule) else check_positive("temperature", temperature)


def check_distillation(model, teacher, distillation):
    """The `DistillationLoss`, the default one for a teacher without; raises `InputError` for what does not fit."""
    if teacher is None:
        if distillation is not None:
            raise InputError(f"`distillation` needs a `teacher`. Received: distillation={distillation!r}, teacher=None")
        return None
    distillation = DistillationLoss() if distillation is None else distillation
    if not isinstance(distillation, DistillationLoss):
        refuse("distillation", "a `DistillationLoss` or None", distillation)
    check_teacher(model, teacher, distillation)
    return distillation


def check_training_policy(model, policy):
    """Raises `InputError` unless it is `None` or a policy that can decide in the place of the model's gates."""
    if policy is None:
        return
    if not isinstance(policy, (RandomPolicy, TokenReduction)):
        refuse("training_policy", "a `RandomPolicy`, a `TopKPolicy`, a `MergePolicy` or None", policy)
    check_policy(policy, model.backbone, "training_policy")


def check_jit_compile(jit_compile):
    """Raises `InputError` where Keras would give the training step to torch.compile.

    On a CPU, compiling took minutes for two blocks, as each layer of Keras is taken anew, and the step then 2.5 times
    its time.
    """
    if keras.backend.backend() == "torch" and jit_compile not in (False, None, "auto"):
        raise InputError(
            "`jit_compile` must be False or 'auto' on torch: torch.compile took minutes for Keras' layers, and "
            f"made the step slower, on a CPU. Received: jit_compile={jit_compile!r}"
        )
