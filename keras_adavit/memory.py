"""What cannot fit into the memory of this machine is refused before it is made: the system would kill the process."""

import os

from keras_adavit.errors import InputError


def check_memory(needed, what, received):
    """Raises `InputError` if something takes more than all memory of the machine.

    Args:
        needed: Bytes, at least.
        what: What it is, with the names of the arguments that decide.
        received: Their values.
    """
    available = machine_memory()
    if needed > available:
        raise InputError(
            f"{what} must fit into this machine's memory of {available / 2**30:.3g} GiB. "
            f"Received: {received}, which take {needed / 2**30:.3g} GiB"
        )


def machine_memory():
    """Bytes of memory; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # there is no such call on Windows
        return float("inf")
