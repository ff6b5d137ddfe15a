"""Policies that no gate decides: at random, all open, or given as tensors; what learned gates are compared with."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_adavit.errors import InputError
from keras_adavit.gating.policy import POLICY_KEYS
from keras_adavit.gating.reduction import TokenReduction
from keras_adavit.gating.sampling import uniform_noise
from keras_adavit.settings import Seed, Share, settings


@keras.saving.register_keras_serializable("keras_adavit")
@settings
class RandomPolicy:
    """Each gated patch, head and sub-layer is used with a given probability, independently of all others.

    The model draws the same decisions at every call; `policy(shapes, number)` gives other ones for each number. As the
    `training_policy` of `compile` it draws others at every step.

    ```python
    outputs = model(images, policy=ka.RandomPolicy(tokens=0.5))
    ```

    Args:
        tokens: Usage of patches, in [0, 1]; the class token is always used.
        heads: Usage of heads, in [0, 1].
        sublayers: Usage of attention, and of the MLP, in [0, 1].
        seed: Seed of the draw.

    Raises:
        InputError: If a usage is outside [0, 1], or the seed is negative.
    """

    tokens: Share = 1.0
    heads: Share = 1.0
    sublayers: Share = 1.0
    seed: Seed = 0

    def __call__(self, shapes, number=0):
        """Draws a policy.

        Args:
            shapes: Dict of the shapes of `token_keep` (B, L, T), `head_keep` (B, L, H) and `block_keep` (B, L, 2).
            number: Integer; another number, such as that of a batch, is another draw from the same seed.

        Returns:
            A dict of float32 tensors of these shapes, exactly 0 or 1; the class token is always used.
        """
        seeds = np.random.SeedSequence([self.seed, number]).generate_state(len(POLICY_KEYS)) >> 1
        return self.draw(shapes, [int(seed) for seed in seeds])

    def draw(self, shapes, seeds):
        """Draws a policy from seeds of its own.

        Args:
            shapes: As of `__call__`.
            seeds: Of each of the three keeps an integer or a `keras.random.SeedGenerator`.

        Returns:
            As of `__call__`.
        """
        usages = (self.tokens, self.heads, self.sublayers)
        keeps = {
            key: ops.cast(uniform_noise(shapes[key], seed) < usage, "float32")
            for key, seed, usage in zip(POLICY_KEYS, seeds, usages, strict=True)
        }
        patches = keeps["token_keep"][:, :, 1:]
        keeps["token_keep"] = ops.pad(patches, ((0, 0), (0, 0), (1, 0)), constant_values=1.0)  # the class token
        return keeps

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@settings
class OpenPolicy:
    """Everything is used, as in the dense model of the same weights.

    ```python
    outputs = model(images, policy=ka.OpenPolicy())
    ```
    """

    def __call__(self, shapes, number=0):
        """A dict of ones, see `RandomPolicy`."""
        return {key: ops.ones(shapes[key], dtype="float32") for key in POLICY_KEYS}


def given_policy(policy, shapes):
    """Turns what a user gave into tensors.

    Args:
        policy: What `check_policy` lets pass.
        shapes: Dict of the expected shapes.

    Returns:
        A dict of float32 tensors.

    Raises:
        InputError: If a tensor has another shape.
    """
    if isinstance(policy, (RandomPolicy, OpenPolicy)):
        return policy(shapes)
    keeps = {key: ops.cast(ops.convert_to_tensor(keep), "float32") for key, keep in policy.items()}
    for key, keep in keeps.items():
        expected = tuple(size if isinstance(size, int) else None for size in shapes[key])  # None: known at run time
        found = tuple(keep.shape)
        if len(found) != len(expected) or any(
            None not in (one, other) and one != other for one, other in zip(found, expected, strict=True)
        ):
            raise InputError(f"`{key}` of `policy` must have the shape {expected}. Received: {found}")
    return keeps


def check_policy(policy, backbone, name="policy"):
    """Raises `InputError` for what is no policy, or skips what a model cannot skip.

    Args:
        policy: A `RandomPolicy`, an `OpenPolicy`, a `TokenReduction`, which needs no gates, or a dict of some of
            `token_keep`, `head_keep` and `block_keep`, 1 use and 0 skip.
        backbone: The model's `AdaViTBackbone`.
        name: What the message calls the policy.
    """
    gates = backbone.gates
    if isinstance(policy, TokenReduction):
        policy.token_counts(backbone.num_tokens, backbone.depth)  # raises, if it does not fit
        return
    if gates is None:
        raise InputError(
            f"`{name}` needs a model with gates, unless it is a `TopKPolicy` or a `MergePolicy`: a dense model uses "
            f"everything. Received: gates=None"
        )
    if isinstance(policy, RandomPolicy):
        for kind, gated in {"tokens": gates.tokens, "heads": gates.heads, "sublayers": gates.blocks}.items():
            usage = getattr(policy, kind)
            if usage < 1 and not gated:
                raise InputError(f"`{kind}` must be 1 for a model without such gates. Received: {kind}={usage}")
    elif not isinstance(policy, OpenPolicy) and not is_dict_of_keeps(policy):
        received = sorted(policy) if isinstance(policy, dict) else repr(policy)
        raise InputError(
            f"`{name}` must be a `RandomPolicy`, an `OpenPolicy`, a `TopKPolicy`, a `MergePolicy` or a dict of keys "
            f"among {POLICY_KEYS}. Received: {received}"
        )
    if isinstance(policy, dict):
        for key, keep in policy.items():
            check_keeps(key, keep)


def check_keeps(key, keep):
    """Raises `InputError` for values that are known and neither 0 nor 1."""
    if isinstance(keep, keras.KerasTensor):
        return
    try:
        # Lists may be ragged, which NumPy alone says of all the same.
        values = ops.convert_to_numpy(keep) if ops.is_tensor(keep) else np.asarray(keep)
    except (NotImplementedError, TypeError, RuntimeError):
        return  # a tensor of code that is being compiled, or without data
    except ValueError as error:
        raise InputError(f"`{key}` of `policy` must be an array. Received: {error}") from error
    if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
        raise InputError(f"`{key}` of `policy` must be numbers, 0 or 1. Received: {values.dtype.name}")
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise InputError(f"`{key}` of `policy` must be 0 or 1 everywhere. Received: {wrong[0]} among them")


def is_dict_of_keeps(policy):
    """Whether it is a dict of some of the policy's keys and no others."""
    return isinstance(policy, dict) and bool(policy) and set(policy) <= set(POLICY_KEYS)
