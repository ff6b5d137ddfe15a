"""Packed execution of a block: what a policy skips is not computed.

The residual stream is a table of B·T rows, one a token. A sub-layer gathers the rows that use it, of all images,
computes them, and writes them back: images that skip it and tokens that are skipped have no row. Heads are left out of
attention where no image of the batch uses them; other skipped heads are computed and multiplied away, since gathering
weights for each image costs more than it saves. Only attention itself needs the rows image by image: see `attend.py`.

B images, T tokens, D width, H heads, U used heads, N rows.
"""

import functools

import keras
from keras import ops

from keras_adavit.inference.attend import attend
from keras_adavit.inference.rows import add, all_rows, gather, read, rows_of, select
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
    normed = None if normed is None else ops.reshape(normed, (-1, width))
    mlp_keep = token_keep if block.gates and block.gates.gate_mlp_tokens else ops.ones_like(token_keep)
    keeps = [token_keep * block_keep[:, :1], mlp_keep * block_keep[:, 1:]]
    fewer_heads = None
    if block.head_gate is not None:
        keeps.append(head_keep)
        if block.gates.heads == "full" and keras.backend.backend() != "jax":  # where shapes are static
            fewer_heads = fewer_heads_pay(head_keep, length)
    table = ops.reshape(inputs, (-1, width))
    if keras.backend.backend() == "torch":
        table = table.clone()  # that it adds to

    compute = functools.partial(update_table, block, table, normed, fewer_heads)
    if keras.backend.backend() == "tensorflow":
        table = ops.cond(
            ops.shape(inputs)[0] == 1,
            lambda: compute(*keeps, one_image=True),
            lambda: compute(*keeps),
        )
    else:
        table = compute(*keeps)
    return ops.reshape(table, (-1, length, width))


def update_table(block, table, normed, fewer_heads, attention_keep, mlp_keep, head_keep=None, one_image=False):
    """The table (B·T, D) after a block.

    Args:
        block: A `GatedBlock`.
        table: Tensor (B·T, D), which torch changes.
        normed: The table after the first normalisation, or `None`.
        fewer_heads: If attention is computed with fewer heads than there are: boolean scalar, or `None`, never.
        attention_keep, mlp_keep: Which rows each sub-layer computes, (B, T) of 0 and 1.
        head_keep: Tensor (B, H) of 0 and 1, or `None`: all.
    """
    width = table.shape[1]

    def attention(table, rows):
        inputs = block.norm1(read(table, rows)) if normed is None else read(normed, rows)
        compute = functools.partial(packed_attention, block.attention, inputs, rows, head_keep)
        if fewer_heads is None:
            return add(table, rows, compute())
        used = functools.partial(select, ops.max(head_keep, axis=0) > 0.5)
        return add(table, rows, ops.cond(fewer_heads, lambda: compute(used()), compute))

    def mlp(table, rows):
        inputs = block.norm2(read(table, rows))
        if head_keep is not None and block.gates.heads == "full":
            by_head = ops.reshape(inputs, (-1, block.num_heads, width // block.num_heads))
            inputs = ops.reshape(by_head * keep_of_rows(head_keep, rows, inputs.dtype), (-1, width))
        return add(table, rows, block.mlp(inputs))

    return update_rows(mlp, update_rows(attention, table, attention_keep, one_image), mlp_keep, one_image)


def update_rows(update, table, keep, one_image=False):
    """`update(table, rows)` with the rows of the table (B·T, D) that a keep (B, T) uses."""
    if keras.backend.backend() == "jax":
        from keras_adavit.inference import buckets

        def with_size(size, table):
            if size == 0:
                return table
            return update(table, all_rows(keep) if size == buckets.EVERYTHING else rows_of(keep, size))

        needed = ops.where(ops.min(keep) > 0.5, buckets.EVERYTHING, ops.sum(keep))
        return buckets.choose(needed, buckets.row_sizes(table.shape[0]), with_size, table)
    return update(table, rows_of(keep, one_image=one_image))


def packed_attention(layer, inputs, rows, head_keep, heads=None):
    """`GatedAttention` of rows.

    Args:
        layer: A `GatedAttention`.
        inputs: Tensor (N, D), normalised.
        rows: Their `Rows`.
        head_keep: Tensor (B, H) of 0 and 1, or `None`: all heads.
        heads: Integers (U,), the heads to compute, or `None`: all.

    Returns:
        Tensor (N, D).
    """
    used = layer.num_heads if heads is None else ops.shape(heads)[0]
    depth = layer.width // layer.num_heads
    qkv = linear_of_heads(layer.qkv, inputs, heads, (layer.width, 3, layer.num_heads, depth), axis=2)
    attended = attend(qkv, rows, used, depth)  # (N, U·D/H)
    if head_keep is not None:
        keep = keep_of_rows(head_keep if heads is None else gather(head_keep, heads, axis=1), rows, attended.dtype)
        attended = ops.reshape(attended, (-1, used, depth)) * keep
        if layer.partial_heads:
            value = ops.reshape(qkv, (-1, 3, layer.num_heads, depth))[:, 2]
            attended = attended + value * (1 - keep)
        attended = ops.reshape(attended, (-1, used * depth))
    return linear_of_heads(layer.projection, attended, heads, (layer.num_heads, depth, layer.width), axis=0)


def fewer_heads_pay(head_keep, length):
    """If leaving out the heads that no image uses saves more than gathering the weights of the others costs.

    Not where no head is used: not every runtime has products of no channels.

    Args:
        head_keep: Tensor (B, H) of 0 and 1.
        length: T, tokens of an image.

    Returns:
        Boolean scalar.
    """
    images, heads = ops.shape(head_keep)
    used = ops.sum(ops.max(head_keep, axis=0))
    rows = ops.cast(images * length, used.dtype)
    return ops.logical_and(used > 0, used < heads * rows / (rows + GATHER_COST))


def keep_of_rows(head_keep, rows, dtype):
    """Of every row the keep of its image's heads: (B, U) → (N, U, 1), or (1, U, 1) of one image."""
    head_keep = ops.expand_dims(ops.cast(head_keep, dtype), -1)
    return head_keep if rows.one_image else gather(head_keep, rows.images)


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
    kernel = gather(ops.reshape(layer.kernel, shape), heads, axis=axis)
    kernel = ops.reshape(kernel, (shape[0], -1) if axis else (-1, shape[-1]))
    bias = layer.bias
    if axis and bias is not None:
        bias = ops.reshape(gather(ops.reshape(bias, shape[1:]), heads, axis=axis - 1), (-1,))
    bias = None if bias is None else ops.cast(bias, inputs.dtype)
    return linear(inputs, ops.cast(kernel, inputs.dtype), bias, layer.activation)
