"""The devices that train a model."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from keras_adavit.errors import InputError


@dataclass(frozen=True)
class Devices:
    """Devices of this machine.

    Attributes:
        count: How many.
        scope: Function that gives the context in which models are made and trained.
        can_accumulate: Whether several batches can make one update.
    """

    count: int = 1
    scope: Callable = contextlib.nullcontext
    can_accumulate: bool = True


def choose(names, count):
    """The first `count` of the names of this machine's devices, or `"all"`; raises `InputError` if there are fewer."""
    if count != "all" and count > len(names):
        raise InputError(
            f"`devices` must be at most {len(names)}, the devices of this machine ({', '.join(names)}), or 'all'. "
            f"Received: devices={count}"
        )
    return names if count == "all" else names[:count]
