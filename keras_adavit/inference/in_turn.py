"""Blocks in turn; packed ones on JAX in a loop over one compiled block.

There a packed block has some thirty variants, see `buckets.py`: compiled for every block anew they would take a minute,
and more memory than the images. The loop copies the weights of each block before it is computed.
"""

import keras
from keras import ops


def run_in_turn(blocks, call, tokens, given, packed):
    """Runs the blocks.

    Args:
        blocks: The `GatedBlock`s; the last has all gates that another has.
        call: Function of a block, its input and its given decisions; returns its output, of the input's shape, and a
            dict of tensors (B, ...).
        tokens: Input of the first block.
        given: Dict of given decisions (B, L, ...), may be empty.
        packed: If they compute packed.

    Returns:
        The output of the last block, and of every block the other tensors, a list of dicts.
    """
    given = [{key: keep[:, index] for key, keep in given.items()} for index in range(len(blocks))]
    if packed and keras.backend.backend() == "jax":
        from keras_adavit.inference import buckets

        if buckets.compiling(tokens):
            return loop(blocks, call, tokens, given)
    found = []
    for block, keep in zip(blocks, given, strict=True):
        tokens, more = call(block, tokens, keep)
        found.append(more)
    return tokens, found


def loop(blocks, call, tokens, given):
    """`run_in_turn` on JAX: the last block with the weights of each."""
    from jax import lax

    model = blocks[-1]

    def weights(block):
        """Those of a gate that a block does not have are zeros: with a threshold of zero it keeps everything."""
        own = {weight.path.removeprefix(block.path): weight.value for weight in block.weights}
        paths = ((weight.path.removeprefix(model.path), weight) for weight in model.weights)
        return [own[path] if path in own else ops.zeros(weight.shape, weight.dtype) for path, weight in paths]

    def step(tokens, turn):
        index, keep = turn
        values = lax.switch(index, [lambda block=block: weights(block) for block in blocks])
        with keras.StatelessScope(list(zip(model.weights, values, strict=True))):
            return call(model, tokens, keep)

    given = [
        {key: keep if gates[key] else ops.ones_like(keep) for key, keep in keeps.items()}
        for keeps, gates in zip(given, map(gates_by_keep, blocks), strict=True)
    ]
    turns = ops.arange(len(blocks)), {key: ops.stack([keeps[key] for keeps in given]) for key in given[0]}
    tokens, found = lax.scan(step, tokens, turns)
    return tokens, [{key: tensor[index] for key, tensor in found.items()} for index in range(len(blocks))]


def gates_by_keep(block):
    return {"token_keep": block.token_gate, "head_keep": block.head_gate, "block_keep": block.block_gate}
