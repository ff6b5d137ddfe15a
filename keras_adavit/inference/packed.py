"""Packed execution of a block: what a policy skips is not computed.

The residual stream is a table of B·T rows, one a token. A sub-layer gathers the rows that use it, of all images,
computes them, and writes them back: images that skip it and tokens that are skipped have no row. Heads are left out of
attention where no image of the batch uses them; other skipped heads are computed and multiplied away, since gathering
weights for each image costs more than it saves. Only attention itself needs the rows image by image: see `attend.py`.

B images, T tokens, D width, H heads, U used heads, N rows.
"""

import keras
from keras import ops

from keras_adavit.inference.attend import attend
from keras_adavit.inference.rows import (
    add,
    broken_images,
    by_rows,
    gather,
    keep_of_rows,
    nan_where,
    own,
    read,
    replace,
    rows_of,
    select,
)
from keras_adavit.layers.kernels import linear

GATHER_COST = 128  # copying a weight takes about as long as this many multiply-accumulates with it


def packed_block(block, inputs, normed, token_keep, head_keep, block_keep):
    """What `GatedBlock` computes in evaluation, of kept rows alone.

    Args:
        block: A `GatedBlock`.
        inputs: Tensor (B, T, D).
        normed: `inputs` after the block's first normalisation, or `None` where no gate needed them.
        token_keep, head_keep, block_keep: The block's decisions (B, T), (B, H), (B, 2).

    Returns:
        Tensor (B, T, D).
    """
    length, width = inputs.shape[1:]
    broken = broken_images(inputs)
    table = ops.copy(ops.reshape(inputs, (-1, width)))  # torch adds to it in place
    normed = None if normed is None else ops.reshape(normed, (-1, width))
    head_keep = head_keep if block.head_gate is not None else None
    compute = one_image if inputs.shape[0] == 1 and keras.backend.backend() != "jax" else several_images
    outputs = compute(block, table, normed, token_keep, head_keep, block_keep, broken)
    return ops.reshape(outputs, (-1, length, width))


def several_images(block, table, normed, token_keep, head_keep, block_keep, broken):
    """`packed_block` of a table (B·T, D), `normed` too; without a head gate `head_keep` is `None`. `broken` images (B,)
    become NaN, as masked, and have no rows, so that others do not read them."""
    mlp_keep = token_keep if gates_mlp_tokens(block) else ops.ones_like(token_keep)
    heads = used_heads(head_keep, token_keep.shape[1]) if scales_heads(block) else None

    def attention(table, rows):
        source, finish = to_normalize(block.norm1, table, normed)

        def inputs(rows):
            return finish(read(source, rows))

        return add(table, rows, packed_attention(block.attention, inputs, rows, head_keep, heads))

    def mlp(table, rows):
        source, finish = to_normalize(block.norm2, table)

        def transform(rows, source):
            keep = [keep_of_rows(head_keep, rows, block.compute_dtype)] if scales_heads(block) else []
            return packed_mlp(block, finish(read(source, rows)), *keep)

        return add(table, rows, by_rows(transform, rows, source))

    table = update_rows(attention, table, rows_of(token_keep * block_keep[:, :1], broken))
    return update_rows(mlp, table, rows_of(mlp_keep * block_keep[:, 1:], broken))


def one_image(block, table, normed, token_keep, head_keep, block_keep, broken):
    """The same of one, in fewer operations: both sub-layers share its rows, and a skipped one takes none at all."""
    rows = rows_of(token_keep, ops.zeros_like(broken))  # there is no other image to disturb
    kept = read(table, rows)

    def attention(heads=None):
        inputs = block.norm1(kept) if normed is None else read(normed, rows)
        attended = packed_attention(block.attention, lambda rows: inputs, rows.all(), head_keep, heads)
        return kept + ops.cast(attended, kept.dtype)

    def mlp(table):
        keep = [keep_of_rows(head_keep, rows, block.compute_dtype)] if scales_heads(block) else []
        return table + ops.cast(packed_mlp(block, block.norm2(table), *keep), table.dtype)

    branches = [lambda: kept, attention]
    choice = ops.cast(block_keep[0, 0], "int32")
    if scales_heads(block):
        length = token_keep.shape[1]
        branches.append(lambda: attention(used_heads(head_keep, length)))
        choice = choice * (1 + ops.cast(fewer_heads_pay(head_keep, length), "int32"))
    attended = ops.switch(choice, branches)
    if gates_mlp_tokens(block):
        table = replace(table, rows, ops.cond(block_keep[0, 1] > 0.5, lambda: mlp(attended), lambda: attended))
    else:
        attended = replace(table, rows, attended)
        table = ops.cond(block_keep[0, 1] > 0.5, lambda: mlp(attended), lambda: attended)
    return table + nan_where(broken, table.dtype)


def update_rows(update, table, rows):
    """`update(table, rows)` of a table (B·T, D); on JAX nothing is computed where there are no rows."""
    if keras.backend.backend() != "jax":
        return update(table, rows)
    from keras_adavit.inference import buckets

    variants = [lambda table: table, lambda table: update(table, rows)]
    needed = ops.logical_or(rows.running[-1, -1] > 0, ops.any(rows.broken))
    return buckets.choose(ops.cast(needed, "int32"), variants, table)


def to_normalize(norm, table, normed=None):
    """A table to read rows of, and what remains to be done with these, so that they are normalised.

    Rows are normalised when they are read, unless `normed`, the normalised table, is known; on JAX the whole table is:
    that is one kernel, and five in a piece.
    """
    if normed is None and keras.backend.backend() == "jax":
        normed = norm(table)
    return (table, norm) if normed is None else (normed, lambda rows: rows)


def packed_attention(layer, inputs, rows, head_keep, heads):
    """`GatedAttention` of rows.

    Args:
        layer: A `GatedAttention`.
        inputs: Function of some `Rows`, returns what is normalised of them (N, D).
        rows: The `Rows`.
        head_keep: Tensor (B, H) of 0 and 1, or `None`: all heads.
        heads: Integers (U,), the heads to compute, or `None`: all.

    Returns:
        Tensor (N, D).
    """
    used = layer.num_heads if heads is None else ops.shape(heads)[0]
    depth = layer.width // layer.num_heads
    head_keep = head_keep if heads is None or head_keep is None else gather(head_keep, heads, axis=1)

    def project_inputs(rows, _):
        return linear_of_heads(layer.qkv, inputs(rows), heads, (layer.width, 3, layer.num_heads, depth), axis=2)

    def project(rows, attended):
        attended = own(attended, rows)
        return linear_of_heads(layer.projection, attended, heads, (layer.num_heads, depth, layer.width), axis=0)

    attended = attend(by_rows(project_inputs, rows), rows, used, depth, head_keep, layer.partial_heads)
    return by_rows(project, rows, attended)


def packed_mlp(block, inputs, head_keep=None):
    """The MLP of a block, of normalised rows (N, D); `head_keep` (N, H, 1) or (1, H, 1) if it scales."""
    if head_keep is not None:
        by_head = ops.reshape(inputs, (-1, block.num_heads, block.width // block.num_heads))
        inputs = ops.reshape(by_head * head_keep, (-1, block.width))
    return block.mlp(inputs)


def gates_mlp_tokens(block):
    """If a skipped token skips the MLP too."""
    return block.gates is not None and block.gates.gate_mlp_tokens


def scales_heads(block):
    """If a skipped head is zero in attention and in what the MLP reads: full heads, not partial ones."""
    return block.head_gate is not None and block.gates.heads == "full"


def used_heads(head_keep, length):
    """Heads for attention to compute: integers (U,), or `None` for all, where shapes are static.

    Those that an image uses; or all, where that would not pay.

    Args:
        head_keep: Tensor (B, H) of 0 and 1.
        length: T, tokens of an image.
    """
    if keras.backend.backend() == "jax":
        return None
    return select(ops.where(fewer_heads_pay(head_keep, length), ops.sum(head_keep, axis=0), 1.0) > 0.5)


def fewer_heads_pay(head_keep, length):
    """If leaving out the heads that no image uses saves more time than gathering the weights of the others takes.

    Not where none is used: not every runtime has products of no channels. Arguments are those of `used_heads`, the
    result is a boolean scalar.
    """
    images, heads = ops.shape(head_keep)
    # A sum, not a maximum, which has no value in an empty batch.
    count = ops.sum(ops.minimum(ops.sum(head_keep, axis=0), 1.0))
    saved = ops.cast(images * length, count.dtype) * (heads - count)
    return ops.logical_and(count > 0, saved > GATHER_COST * count)


def linear_of_heads(layer, inputs, heads, shape, axis):
    """A `Dense` layer with the weights of some heads.

    Args:
        layer: A `keras.layers.Dense`.
        inputs: Tensor (N, inputs of these heads).
        heads: Integers (U,), or `None`: all.
        shape: Shape of the kernel with the heads along `axis`.
        axis: 0 if the inputs are those of the heads, else the outputs are.

    Returns:
        Tensor (N, outputs of these heads).
    """
    if heads is None:
        return layer(inputs)
    inputs = ops.cast(inputs, layer.compute_dtype)

    def some():
        by_head = list(shape)
        if keras.backend.backend() == "tensorflow":
            # The same number, but unknown before it runs: with a known shape, ONNX files hold every kernel twice.
            by_head[axis] = ops.maximum(ops.shape(heads)[0], shape[axis])
        kernel = gather(ops.reshape(layer.kernel, by_head), heads, axis=axis)
        kernel = ops.reshape(kernel, (shape[0], -1) if axis else (-1, shape[-1]))
        bias = layer.bias
        if axis and bias is not None:
            bias = ops.reshape(gather(ops.reshape(bias, by_head[1:]), heads, axis=axis - 1), (-1,))
        bias = None if bias is None else ops.cast(bias, inputs.dtype)
        return linear(inputs, ops.cast(kernel, inputs.dtype), bias, layer.activation)

    return ops.cond(ops.shape(heads)[0] == shape[axis], lambda: layer(inputs), some)
