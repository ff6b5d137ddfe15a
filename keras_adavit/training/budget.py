"""The budget loss: what it costs to use more, or less, than the budget allows (paper, section 3.3)."""

import dataclasses
from typing import Annotated

import keras
from keras import ops
from pydantic import WrapValidator

from keras_adavit.errors import InputError
from keras_adavit.gating import policy as policies
from keras_adavit.settings import NonNegativeFloat, PositiveFloat, PositiveShare, Share, Words, settings
from keras_adavit.training import schedules

KINDS = ("token", "head", "block", "macs")
USAGE_TARGET = 0.5  # the published target of each kind


def or_schedule(kind, words):
    """A number of a `kind`, a Keras learning-rate schedule, or `None`; the command line offers the number."""

    def check(value, check_number):
        return value if value is None or isinstance(value, schedules.Schedule) else check_number(value)

    return Annotated[kind | None, WrapValidator(check), Words(words)]


UsageTarget = or_schedule(PositiveShare, "a number in (0, 1], a schedule or None")
MacsTarget = or_schedule(
    PositiveFloat, "in (0, 1], a share of the dense model's MACs, an absolute number above that, a schedule or None"
)


@keras.saving.register_keras_serializable("keras_adavit")
@settings
class BudgetLoss:
    """Pulls the usage of tokens, heads and sub-layers, or the MACs, towards targets.

    Means are over the batch, that of all devices together. Token usage counts the class token; head usage is a mean
    over the blocks in which the image uses a sub-layer; blocks that are not gated do not count. A target may be a
    number or a Keras learning-rate schedule of the training step.

    ```python
    budget = ka.BudgetLoss(macs_target=0.5)  # or usages: token_target=0.5, head_target=0.8, block_target=0.8
    model.compile("adamw", ka.CrossEntropy(), budget=budget)
    ```

    - tokens: (usage − target)² + shortfall
    - heads and blocks: |usage − target| + diversity + shortfall − entropy
    - MACs: |mean MACs / dense MACs − target|

    Args:
        token_target, head_target, block_target: Usage aimed at, in (0, 1]. By default 0.5 for each kind that the
            model gates, or none at all where `macs_target` is given.
        macs_target: Mean MACs aimed at: in (0, 1] a share of the dense model's, above 1 an absolute number. The
            published code has no such term.
        token_weight, head_weight, block_weight, macs_weight: Weights of the terms in the total loss.
        head_diversity, block_diversity: Weight of the mean distance to the target of each single head of each block,
            or of each block.
        head_entropy, block_entropy: Weight of the mean entropy, in nats, of the gate probabilities, which is rewarded.
            In training only: evaluation has decisions without probabilities.
        head_minimum, block_minimum, token_minimum: Usage in [0, 1] below which a head of a block, a sub-layer of a
            block, or the tokens of one image in one block fall short.
        head_minimum_weight, block_minimum_weight, token_minimum_weight: Weights of the summed shortfalls.
        macs_spread: Half the width of the range around `macs_target` from which each training step draws a target of
            its own, as a share of the dense model's MACs; for a model whose gates follow the budget (`follow_budget` of
            `GateConfig`), so that `calibrate` can set it to any budget in the range. 0: one target.
        noise_free: Whether usage and MACs in training are those of the decisions without noise, as evaluation takes
            them, so that what is met in training is met in evaluation; the model itself computes with the noisy ones.
            The published code counts the noisy ones. Under a `training_policy` it is that policy which counts.

    Raises:
        InputError: If a target is outside its range, a weight is negative, a minimum and its weight do not come
            together, or there is a `macs_spread` without a `macs_target`.
    """

    token_target: UsageTarget = None
    head_target: UsageTarget = None
    block_target: UsageTarget = None
    macs_target: MacsTarget = None
    token_weight: NonNegativeFloat = 2.0
    head_weight: NonNegativeFloat = 2.0
    block_weight: NonNegativeFloat = 2.0
    macs_weight: NonNegativeFloat = 4.0
    macs_spread: Share = 0.0
    head_diversity: NonNegativeFloat = 0.0
    block_diversity: NonNegativeFloat = 0.0
    head_entropy: NonNegativeFloat = 0.0
    block_entropy: NonNegativeFloat = 0.0
    head_minimum: Share = 0.0
    head_minimum_weight: NonNegativeFloat = 0.0
    block_minimum: Share = 0.0
    block_minimum_weight: NonNegativeFloat = 0.0
    token_minimum: Share = 0.0
    token_minimum_weight: NonNegativeFloat = 0.0
    noise_free: bool = False

    def __post_init__(self):
        if self.macs_spread and self.macs_target is None:
            raise InputError(f"`macs_spread` needs a `macs_target`. Received: macs_spread={self.macs_spread} alone")
        for kind in ("token", "head", "block"):
            minimum, weight = getattr(self, f"{kind}_minimum"), getattr(self, f"{kind}_minimum_weight")
            if bool(minimum) != bool(weight):
                raise InputError(
                    f"`{kind}_minimum` and `{kind}_minimum_weight` must be given together. "
                    f"Received: {minimum} and {weight}"
                )

    def target(self, kind):
        """Target of `kind`, one of `KINDS`: a number, a schedule, or `None` if there is none."""
        given = getattr(self, f"{kind}_target")
        if given is None and kind != "macs" and self.macs_target is None:
            return USAGE_TARGET
        return given

    def has_term(self, kind, gates):
        """Whether `kind`, one of `KINDS`, has a target and, but for MACs, a gate."""
        gated = {"token": gates.tokens, "head": gates.heads, "block": gates.blocks, "macs": True}
        return self.target(kind) is not None and bool(gated[kind])

    def check_model(self, backbone, total_dense_macs):
        """Raises `InputError` if the model lacks a gate that a target is set for, or cannot reach the MACs target.

        Args:
            backbone: An `AdaViTBackbone`.
            total_dense_macs: MACs of the dense model of its size, classifier included.
        """
        gates = backbone.gates
        if gates is None:
            raise InputError("`budget` needs a model with gates. Received: a model with gates=None")
        for kind, gated in (("token", gates.tokens), ("head", gates.heads), ("block", gates.blocks)):
            given = getattr(self, f"{kind}_target")
            if given is not None and not gated:
                raise InputError(
                    f"`{kind}_target` needs a model that gates {kind}s. Received: {kind}_target={given} with {gates}"
                )
        if self.macs_spread and not gates.follow_budget:
            raise InputError(
                "`macs_spread` needs a model with `GateConfig(follow_budget=True)`. "
                f"Received: macs_spread={self.macs_spread} with {gates}"
            )
        target = self.macs_target
        if target is None or isinstance(target, schedules.Schedule):
            return
        least = backbone.fixed_macs
        macs = target * total_dense_macs if target <= 1 else target
        if not least < macs <= total_dense_macs:
            raise InputError(
                f"`macs_target` must be a share in ({least / total_dense_macs:.3g}, 1] of the dense model's MACs, or "
                f"an absolute number in ({least}, {total_dense_macs}]. Received: macs_target={target}"
            )
        share, most = macs / total_dense_macs, (macs - least) / total_dense_macs
        if self.macs_spread >= most:
            raise InputError(
                f"`macs_spread` must be below {most:.3g}: what lies that far under `macs_target`, {share:.3g} of the "
                f"dense model's MACs, cannot be reached. Received: macs_spread={self.macs_spread}"
            )

    def __call__(self, outputs, gates, dense_macs, step=0):
        """The terms, each unweighted.

        Args:
            outputs: Dict of `token_keep` (B, L, T), `head_keep` (B, L, H), `block_keep` (B, L, 2), `macs` (B,); with
                `head_logits` and `block_logits` the entropy is rewarded too; with `budget_offset` (B,), one number in
                [-1, 1], the MACs target is the one that this step drew.
            gates: The model's `GateConfig`.
            dense_macs: MACs of the dense model of the same size.
            step: Training step that the schedules read: integer or scalar tensor.

        Returns:
            A dict of float32 scalars: of `token`, `head`, `block` and `macs` those that have a gate and a target.
        """
        first = gates.first_gated_block
        logits = {
            kind: outputs[f"{kind}_logits"][:, first:] for kind in ("head", "block") if f"{kind}_logits" in outputs
        }
        block_keep = outputs["block_keep"][:, first:]
        terms = {}
        for kind in KINDS:
            if not self.has_term(kind, gates):
                continue
            target = schedules.value_at(self.target(kind), step)
            if kind == "token":
                terms[kind] = self._token_term(outputs["token_keep"][:, gates.first_token_gated_block :], target)
            elif kind == "head":
                terms[kind] = self._head_term(outputs["head_keep"][:, first:], block_keep, logits.get(kind), target)
            elif kind == "block":
                terms[kind] = self._block_term(block_keep, logits.get(kind), target)
            else:
                share = ops.where(target > 1.0, target / dense_macs, target)
                if self.macs_spread and "budget_offset" in outputs:
                    drawn = share + self.macs_spread * ops.mean(outputs["budget_offset"])
                    share = ops.minimum(drawn, 1.0)
                terms[kind] = ops.abs(ops.mean(outputs["macs"]) / dense_macs - share)
        return terms

    def total(self, terms):
        """The weighted sum of the terms: a scalar."""
        return sum(getattr(self, f"{kind}_weight") * term for kind, term in terms.items())

    def _token_term(self, keep, target):
        term = ops.square(policies.token_usage(keep) - target)
        if self.token_minimum_weight:
            each = ops.mean(keep, axis=-1)  # (B, L): an image's usage in a block
            term += self.token_minimum_weight * ops.sum(shortfall(each, self.token_minimum))
        return term

    def _head_term(self, keep, block_keep, logits, target):
        active = policies.active_blocks(block_keep)[..., None]  # (B, L, 1)
        images = ops.sum(active, axis=0)  # (L, 1): how many use the block
        each = ops.sum(keep * active, axis=0) / ops.maximum(images, 1.0)  # (L, H)
        used = ops.ones_like(each) * ops.cast(images > 0, each.dtype)  # a block that no image uses says nothing
        term = ops.abs(policies.head_usage(keep, block_keep) - target)
        if self.head_diversity:
            term += self.head_diversity * masked_mean(ops.abs(each - target), used)
        if self.head_entropy and logits is not None:
            term -= self.head_entropy * ops.mean(binary_entropy(logits))
        if self.head_minimum_weight:
            lack = shortfall(each, self.head_minimum)
            term += self.head_minimum_weight * ops.sum(lack * used)
        return term

    def _block_term(self, keep, logits, target):
        term = ops.abs(ops.mean(keep) - target)
        if self.block_diversity:
            term += self.block_diversity * ops.mean(ops.abs(ops.mean(keep, axis=(0, 2)) - target))
        if self.block_entropy and logits is not None:
            term -= self.block_entropy * ops.mean(binary_entropy(logits))
        if self.block_minimum_weight:
            each = ops.mean(keep, axis=0)  # (L, 2)
            term += self.block_minimum_weight * ops.sum(shortfall(each, self.block_minimum))
        return term

    def get_config(self):
        return {name: schedules.serialize(value) for name, value in self._fields().items()}

    def _fields(self):
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: schedules.deserialize(value) for name, value in config.items()})


def shortfall(usage, minimum):
    """What each usage lacks to the minimum; exactly at it the pull upwards still acts, as in the published code."""
    return ops.where(usage <= minimum, minimum - usage, ops.zeros_like(usage))


def binary_entropy(logits):
    """Entropy in nats of a decision with probability σ(logit), elementwise."""
    probability = ops.sigmoid(logits)
    return ops.softplus(logits) - probability * logits


def masked_mean(values, mask):
    """Mean of `values` where `mask`, of the same shape, is 1; zero where it is nowhere."""
    return ops.sum(values * mask) / ops.maximum(ops.sum(mask), 1.0)
