"""Running means that training logs of a policy: loss terms, usage, MACs."""

import keras
from keras import ops

from keras_adavit.gating import policy as policies
from keras_adavit.training import distillation as distillations
from keras_adavit.training.budget import KINDS

DISTILLATION_NAMES = tuple(f"{kind}_distillation_loss" for kind in distillations.KINDS)


class PolicyMetrics(keras.layers.Layer):
    """Means over an epoch; a layer only so that Keras finds, resets and carries them.

    Logged names: `task_loss`; `token_budget_loss`, `head_budget_loss`, `block_budget_loss`, `macs_budget_loss`
    (unweighted); in training `logit_distillation_loss`, `attention_distillation_loss`, `token_distillation_loss`
    (unweighted); `token_usage`, `head_usage`, `attention_usage`, `mlp_usage` over gated blocks; `macs`, and
    `macs_share` of the dense model's.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        names = ["task_loss", *(f"{kind}_budget_loss" for kind in KINDS), *DISTILLATION_NAMES]
        names += ["token_usage", "head_usage", "attention_usage", "mlp_usage", "macs", "macs_share"]
        self.means = {name: keras.metrics.Mean(name=name, dtype="float32") for name in names}
        self.built = True  # it is never called; Keras on JAX would build the model anew at every `predict_on_batch`

    def update_losses(self, task, budget_terms, distillation_terms, batch):
        """Takes the loss terms of a batch of `batch` images."""
        self.means["task_loss"].update_state(task, sample_weight=batch)
        for kind, term in budget_terms.items():
            self.means[f"{kind}_budget_loss"].update_state(term, sample_weight=batch)
        for kind, term in distillation_terms.items():
            self.means[f"{kind}_distillation_loss"].update_state(term, sample_weight=batch)

    def update_policy(self, outputs, gates, dense_macs):
        """Takes the policy and MACs of a batch."""
        macs = outputs["macs"]
        self.means["macs"].update_state(macs)
        self.means["macs_share"].update_state(macs / dense_macs)
        batch = ops.shape(macs)[0]
        for name, usage in gated_usage(outputs, gates).items():
            self.means[name].update_state(usage, sample_weight=batch)

    def unused_names(self, gates, budget, distillation):
        """Names of the means that a model with these gates, this budget and this distillation does not have."""
        terms = {f"{kind}_budget_loss" for kind in KINDS if budget and budget.has_term(kind, gates)}
        terms |= {f"{kind}_distillation_loss" for kind in (distillation.kinds if distillation else ())}
        return set(self.means) - {"macs", "macs_share", *terms, *usage_names(gates), *(["task_loss"] if terms else [])}


def usage_names(gates):
    """Names of the usages that a model with these gates has."""
    if gates is None:
        return []
    names = ["token_usage"] if gates.tokens else []
    names += ["head_usage"] if gates.heads else []
    return names + (["attention_usage", "mlp_usage"] if gates.blocks else [])


def gated_usage(outputs, gates):
    """Usage of a batch over the gated blocks, as the budget loss measures it: a dict of scalars."""
    if gates is None:
        return {}
    block_keep = outputs["block_keep"][:, gates.first_gated_block :]
    usage = {}
    if gates.tokens:
        usage["token_usage"] = policies.token_usage(outputs["token_keep"][:, gates.first_token_gated_block :])
    if gates.heads:
        usage["head_usage"] = policies.head_usage(outputs["head_keep"][:, gates.first_gated_block :], block_keep)
    if gates.blocks:
        usage["attention_usage"], usage["mlp_usage"] = policies.sublayer_usage(block_keep)
    return usage
