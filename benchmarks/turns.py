"""Times of models that take turns on the same images; imports neither Keras nor this package."""

import platform
import time
from pathlib import Path

import numpy as np

SMALLEST_TURN = 32  # images: small batches differ in what they keep, and so a turn takes several


def time_in_turns(runs, images, size, rounds, shift=0, clock=time.perf_counter):
    """Seconds and mean MACs of every turn but the first, which compiles.

    Args:
        runs: Dict of functions of a batch that return a dict of arrays, among them `macs`.
        images: Array (N, S, S, C), all of which each model takes in a turn.
        size: Images in a batch.
        rounds: Turns that count.
        shift: Pixels by which images move from turn to turn, so that every turn sees other ones.
        clock: Function that gives seconds; `time.process_time` for those of the processor, where others use it too.

    Returns:
        Two dicts of lists, `rounds` numbers of each model.
    """
    seconds, macs = {name: [] for name in runs}, {name: [] for name in runs}
    for turn in range(rounds + 1):
        moved = np.roll(images, turn * shift, axis=2)
        batches = [np.ascontiguousarray(moved[start : start + size]) for start in range(0, len(images), size)]
        for name, run in runs.items():
            start = clock()
            found = np.concatenate([run(batch)["macs"] for batch in batches])
            if turn:
                seconds[name].append(clock() - start)
                macs[name].append(found.mean())
    return seconds, macs


def processor():
    """The name of the processor, and how many cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names) or '?'} cores"
