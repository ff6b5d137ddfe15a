"""Damaged versions of a file."""

import random


def damaged(data, count, seed=0, ends=4096):
    """Yields `count` damaged versions of a file's bytes, with what was done to each.

    Of three, two have one bit flipped, one is cut off. The start and the end of a file, where formats keep what the
    rest is read by, are met as often as everything between.
    """
    draw = random.Random(seed)
    ends = min(ends, len(data))
    yield "empty", b""
    for number in range(count - 1):
        where = draw.choice(("start", "end", "anywhere"))
        low, high = {"start": (0, ends), "end": (len(data) - ends, len(data)), "anywhere": (0, len(data))}[where]
        position, bit = draw.randrange(low, high), draw.randrange(8)
        if number % 3:
            flipped = data[position] ^ (1 << bit)
            yield f"bit {bit} of byte {position}", data[:position] + bytes([flipped]) + data[position + 1 :]
        else:
            yield f"cut at {position}", data[:position]
