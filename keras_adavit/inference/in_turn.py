"""Blocks in turn; packed ones share compiled code: on JAX there are many variants in it, on TensorFlow conditionals.

Compiled for every block anew they would take a minute on JAX, and more memory than the images on both.
"""

import contextlib
import contextvars

import keras
import numpy as np
from keras import ops

from keras_adavit.policy import stack_blocks

SHARED = contextvars.ContextVar("shared", default=True)


@contextlib.contextmanager
def written_out():
    """In here every block is compiled by itself: for ONNX, to which functions that are called are not converted."""
    token = SHARED.set(False)
    try:
        yield
    finally:
        SHARED.reset(token)


def run_in_turn(blocks, call, tokens, given, packed):
    """Runs the blocks.

    Args:
        blocks: The `GatedBlock`s; the last has all gates that another has.
        call: Function of a block, its input and its given decisions; returns its output, of the input's shape, and a
            dict of other tensors (B, ...).
        tokens: Input of the first block.
        given: Dict of given decisions (B, L, ...), may be empty.
        packed: If they compute packed.

    Returns:
        The output of the last block, and a dict of the other tensors of all blocks (B, L, ...).
    """
    given = [{key: keep[:, index] for key, keep in given.items()} for index in range(len(blocks))]
    if packed and SHARED.get() and compiles(tokens):
        given = [stay_used(block, keeps) for block, keeps in zip(blocks, given, strict=True)]
        return (loop if keras.backend.backend() == "jax" else call_function)(blocks, call, tokens, given)
    found = []
    for block, keeps in zip(blocks, given, strict=True):
        tokens, more = call(block, tokens, keeps)
        found.append(more)
    return tokens, stack_blocks(found)


def compiles(tokens):
    """If a graph is made here, with tensors whose values are unknown."""
    if keras.backend.backend() == "jax":
        from keras_adavit.inference import buckets

        return buckets.compiling(tokens)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    return False


def stay_used(block, given):
    """Given decisions, where a block has no gate for them those that use everything."""
    gates = {"token_keep": block.token_gate, "head_keep": block.head_gate, "block_keep": block.block_gate}
    return {key: keep if gates[key] else ops.ones_like(keep) for key, keep in given.items()}


def weights_like(block, model):
    """Values of a block's weights, in the order of those of another block with more gates.

    Those of a gate that it does not have are zeros: with a threshold of zero it keeps everything. They are constants,
    for which XLA makes no kernels.
    """
    own = {path_within(block, weight): weight.value for weight in block.weights}
    paths = ((path_within(model, weight), weight) for weight in model.weights)
    return [own[path] if path in own else np.zeros(weight.shape, weight.dtype) for path, weight in paths]


def path_within(block, weight):
    """The path of a weight from its block on; fails where that is not part of it."""
    return weight.path.rsplit(f"{block.name}/", 1)[1]


def call_with(call, model, weights, tokens, given):
    """`call` of a block that has other weights for once."""
    with keras.StatelessScope(list(zip(model.weights, weights, strict=True))):
        return call(model, tokens, given)


def loop(blocks, call, tokens, given):
    """`run_in_turn` on JAX: a loop over the last block with the weights of each, which are copied for it."""
    from jax import lax

    model = blocks[-1]

    def step(tokens, turn):
        index, keeps = turn
        weights = lax.switch(index, [lambda block=block: weights_like(block, model) for block in blocks])
        return call_with(call, model, weights, tokens, keeps)

    turns = ops.arange(len(blocks)), {key: ops.stack([keeps[key] for keeps in given]) for key in given[0]}
    tokens, found = lax.scan(step, tokens, turns)
    return tokens, {key: ops.swapaxes(tensor, 0, 1) for key, tensor in found.items()}


def call_function(blocks, call, tokens, given):
    """`run_in_turn` on TensorFlow: calls of one function, and of another for one image, which is simpler."""
    import tensorflow as tf

    model = blocks[-1]
    values = [[tf.convert_to_tensor(value) for value in weights_like(block, model)] for block in blocks]

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def run(weights, tokens, keeps):
        return call_with(call, model, weights, tokens, keeps)

    def run_all(tokens, given):
        found = []
        for weights, keeps in zip(values, given, strict=True):
            tokens, more = run(weights, tokens, keeps)
            found.append(more)
        return tokens, stack_blocks(found)

    def run_one():
        """Known to be one image, but not by a reshape, from which TensorFlow would infer that it always is."""
        only = tf.zeros((1,), "int32")
        return run_all(*tf.nest.map_structure(lambda tensor: tf.gather(tensor, only), (tokens, given)))

    return tf.cond(tf.shape(tokens)[0] == 1, run_one, lambda: run_all(tokens, given))
