"""Running means that training logs of a policy: loss terms, usage, MACs."""

import keras
from keras import ops

from keras_adavit.gating import policy as policies
from keras_adavit.training import distillation as distillations
from keras_adavit.training.budget import KINDS

USAGES = ("tokens", "heads", "attention", "mlp")
DISTILLATION_NAMES = tuple(f"{kind}_distillation_loss" for kind in distillations.KINDS)


class PolicyMetrics(keras.layers.Layer):
    """Means over an epoch; a layer only so that Keras finds, resets and carries them.

    Logged names: `task_loss`; `token_budget_loss`, `head_budget_loss`, `block_budget_loss`, `macs_budget_loss`
    (unweighted); in training `logit_distillation_loss`, `attention_distillation_loss`, `token_distillation_loss`
    (unweighted); `token_usage`, `head_usage`, `attention_usage`, `mlp_usage` over gated blocks; `macs`, and
    `macs_share` of the dense model's. `by_block` is not logged, as logs are single numbers.

    Args:
        depth: Blocks L.
    """

    def __init__(self, depth, **kwargs):
        super().__init__(**kwargs)
        names = ["task_loss", *(f"{kind}_budget_loss" for kind in KINDS), *DISTILLATION_NAMES]
        names += ["token_usage", "head_usage", "attention_usage", "mlp_usage", "macs", "macs_share"]
        self.means = {name: keras.metrics.Mean(name=name, dtype="float32") for name in names}
        self.by_block = UsageByBlock(depth)
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
        self.means["macs_share"].update_state(macs / float(dense_macs))  # an int of 2^31 and more is refused by JAX
        batch = ops.shape(macs)[0]
        for name, usage in gated_usage(outputs, gates).items():
            self.means[name].update_state(usage, sample_weight=batch)
        if gates is not None:
            self.by_block.update_state(outputs)

    def unused_names(self, gates, budget, distillation):
        """Names that are not logged: of means that a model with these gates, budget and distillation does not have."""
        terms = {f"{kind}_budget_loss" for kind in KINDS if budget and budget.has_term(kind, gates)}
        terms |= {f"{kind}_distillation_loss" for kind in (distillation.kinds if distillation else ())}
        names = {*self.means, self.by_block.name}
        return names - {"macs", "macs_share", *terms, *usage_names(gates), *(["task_loss"] if terms else [])}


class UsageByBlock(keras.metrics.Metric):
    """Mean usage of each block: an array (4, L) in the order of `USAGES`, heads over images that use the block.

    One variable of sums, which is what little it costs to update and to read.

    Args:
        depth: Blocks L.
    """

    def __init__(self, depth, name="usage_by_block"):
        super().__init__(name=name, dtype="float32")
        # Of tokens, heads in active blocks, active blocks, attention, MLP and images.
        self.sums = self.add_variable((6, depth), "zeros", name="sums")

    def update_state(self, outputs):
        """Takes the policy of a batch."""
        keep = outputs["block_keep"]
        active = policies.active_blocks(keep)
        tokens = ops.sum(ops.mean(outputs["token_keep"], axis=-1), axis=0)
        heads = ops.sum(ops.mean(outputs["head_keep"], axis=-1) * active, axis=0)
        attention, mlp = ops.unstack(ops.sum(keep, axis=0), axis=-1)
        images = ops.ones_like(attention) * ops.cast(ops.shape(keep)[0], "float32")
        self.sums.assign(self.sums + ops.stack([tokens, heads, ops.sum(active, axis=0), attention, mlp, images]))

    def result(self):
        return usage_of(self.sums)


def usage_of(sums):
    """The usage (4, L) that sums (6, L) of `UsageByBlock`, or differences of two such, stand for."""
    tokens, heads, active, attention, mlp, images = ops.unstack(ops.convert_to_tensor(sums), axis=0)
    images = ops.maximum(images, 1.0)
    return ops.stack([tokens / images, heads / ops.maximum(active, 1.0), attention / images, mlp / images])


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
