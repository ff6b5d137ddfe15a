"""Running blocks one after the other, and what it takes to run all of them through one compiled block."""

import keras
import numpy as np
from keras import ops

from keras_adavit.gating.policy import stack_blocks


def unroll_blocks(blocks, step, tokens, given):
    """Runs each block by itself.

    Args:
        blocks: The `GatedBlock`s.
        step: Function of a block, its input and its given decisions; returns its output, of the input's shape, and a
            dict of other tensors (B, ...).
        tokens: Input of the first block.
        given: Given decisions of each block, a list of dicts of tensors (B, ...), which may be empty.

    Returns:
        The output of the last block, and a dict of the other tensors of all blocks (B, L, ...).
    """
    decisions = []
    for block, keeps in zip(blocks, given, strict=True):
        with keras.name_scope(block.name):  # as masked: `export/int8.py` goes by it
            tokens, decided = step(block, tokens, keeps)
        decisions.append(decided)
    return tokens, stack_blocks(decisions)


def open_ungated(block, given):
    """The given decisions, with everything used where the block has no gate."""
    gates = {"token_keep": block.token_gate, "head_keep": block.head_gate, "block_keep": block.block_gate}
    return {key: keep if gates[key] else ops.ones_like(keep) for key, keep in given.items()}


def weights_like(block, template):
    """Values of a block's weights, in the order of those of another block that has all of its gates.

    The weights of a gate that the block lacks are zeros: with a threshold of zero it keeps everything. They are
    constants, for which XLA compiles no kernels.
    """
    values = {path_within(block, weight): weight.value for weight in block.weights}
    paths = ((path_within(template, weight), weight) for weight in template.weights)
    return [values[path] if path in values else np.zeros(weight.shape, weight.dtype) for path, weight in paths]


def path_within(block, weight):
    """The path of a weight below its block. Raises `IndexError` for a weight of something else."""
    return weight.path.rsplit(f"{block.name}/", 1)[1]


def step_with(step, template, weights, tokens, given):
    """One step of `template` with other weights."""
    with keras.StatelessScope(list(zip(template.weights, weights, strict=True))):
        return step(template, tokens, given)
