"""Packed execution on TensorFlow under XLA, with the static shapes of `static.py`; see `dispatch.py`."""

import tensorflow as tf

from keras_adavit.packed.blocks import open_ungated, step_with, weights_like
from keras_adavit.packed.static import (  # noqa: F401  part of the interface
    add_rows,
    attend,
    defer_norm,
    hide_size,
    map_rows,
    packs_single,
    select_heads,
    select_rows,
    slice_chunk,
    update_rows,
)


def run_blocks(blocks, step, tokens, given):
    """A loop over the last block with the weights of each, which are copied for it; so XLA compiles one block."""
    template = blocks[-1]
    given = [open_ungated(block, keeps) for block, keeps in zip(blocks, given, strict=True)]
    given = {key: tf.stack([keeps[key] for keeps in given]) for key in given[0]}
    weights = [[tf.convert_to_tensor(value) for value in weights_like(block, template)] for block in blocks]

    def turn(index, tokens, found):
        own = tf.switch_case(index, [lambda each=each: [tf.identity(value) for value in each] for each in weights])
        keeps = {key: keep[index] for key, keep in given.items()}
        tokens, decisions = step_with(step, template, own, tokens, keeps)
        return index + 1, tokens, {key: array.write(index, decisions[key]) for key, array in found.items()}

    like = step_with(step, template, weights[-1], tokens, {key: keep[-1] for key, keep in given.items()})[1]
    found = {
        key: tf.TensorArray(value.dtype, len(blocks), element_shape=value.shape, infer_shape=False)
        for key, value in like.items()
    }
    # A gradient needs to know the largest number of turns.
    _, tokens, found = tf.while_loop(
        lambda index, *_: index < len(blocks), turn, (0, tokens, found), maximum_iterations=len(blocks)
    )
    return tokens, {key: tf.experimental.numpy.swapaxes(array.stack(), 0, 1) for key, array in found.items()}
