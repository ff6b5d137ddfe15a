"""The devices that train a model."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from keras_adavit.errors import InputError

ADDRESSES, HOST = "KERAS_DISTRIBUTION_JOB_ADDRESSES", "KERAS_DISTRIBUTION_PROCESS_ID"  # Keras' own names


@dataclass(frozen=True)
class Devices:
    """Devices of this machine, or of several hosts.

    Attributes:
        count: How many, of all hosts together.
        scope: Function that gives the context in which models are made and trained.
        by_itself: Whether each runs a step by itself, and waits for the others where values of all are needed: it
            cannot do so within XLA or under a condition, on which Keras accumulates batches and scales losses.
        hosts: Processes that train together, each with as many of the devices.
        host: Number of this process; 0 writes the files.
        distribute: Function of a dataset of this host's parts of batches, and of the size of these, that gives what
            `fit` takes.
    """

    count: int = 1
    scope: Callable = contextlib.nullcontext
    by_itself: bool = False
    hosts: int = 1
    host: int = 0
    distribute: Callable = lambda dataset, batch_size: dataset


def choose(names, count):
    """The first `count` of the names of this machine's devices, or `"all"`; raises `InputError` if there are fewer."""
    if count != "all" and count > len(names):
        raise InputError(
            f"`devices` must be at most {len(names)}, the devices of this machine ({', '.join(names)}), or 'all'. "
            f"Received: devices={count}"
        )
    return names if count == "all" else names[:count]


def find_hosts():
    """The addresses of the processes that train together, and the number of this one, as the environment has them.

    Raises:
        InputError: If it is incomplete.
    """
    addresses = [address for address in os.environ.get(ADDRESSES, "").split(",") if address]
    if len(addresses) < 2:
        return [], 0
    host = os.environ.get(HOST, "")
    if not host.isdecimal() or int(host) >= len(addresses):
        raise InputError(
            f"`{HOST}` must be the number of this host among {ADDRESSES}, from 0 to {len(addresses) - 1}. "
            f"Received: {HOST}={host!r}"
        )
    return addresses, int(host)
