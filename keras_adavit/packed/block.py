"""Packed execution of a block.

The residual stream is a table of B·T rows, one a token. A sub-layer gathers the rows that use it, of all images,
computes them, and adds the result to the table: images that skip it and tokens that are skipped have no row. Only
attention itself needs the rows image by image.

B images, T tokens, D width, H heads, U used heads, N rows.
"""

from keras import ops

from keras_adavit.kernels.dispatch import gather
from keras_adavit.packed.heads import fewer_heads_pay, linear_of_heads
from keras_adavit.packed.rows import find_broken, gather_rows, keep_of_rows, nan_where


def execute_packed(block, inputs, decisions, packed, normed=None):
    """What `GatedBlock.execute` computes in evaluation, of kept rows alone.

    Args:
        block: A `GatedBlock`.
        inputs: Tensor (B, T, D).
        decisions: Dict of `token_keep` (B, T), `head_keep` (B, H) and `block_keep` (B, 2).
        packed: The module that `packing` of `dispatch.py` gives.
        normed: `inputs` after the block's first normalisation, if that is known.

    Returns:
        Tensor (B, T, D).
    """
    num_tokens, width = inputs.shape[1:]
    broken = find_broken(inputs)
    table = ops.copy(ops.reshape(inputs, (-1, width)))  # torch writes into it
    normed = None if normed is None else ops.reshape(normed, (-1, width))
    token_keep, block_keep = decisions["token_keep"], decisions["block_keep"]
    head_keep = decisions["head_keep"] if block.head_gate is not None else None
    execute = packed_single if packed.packs_single(inputs) else packed_batch
    outputs = execute(packed, block, table, normed, token_keep, head_keep, block_keep, broken)
    return ops.reshape(outputs, (-1, num_tokens, width))


def packed_batch(packed, block, table, normed, token_keep, head_keep, block_keep, broken):
    """`execute_packed` of a table (B·T, D); without a head gate `head_keep` is `None`."""
    mlp_keep = token_keep if gates_mlp_tokens(block) else ops.ones_like(token_keep)
    heads = packed.select_heads(head_keep, token_keep.shape[1]) if has_full_heads(block) else None

    def add_attention(table, rows):
        source, normalize = packed.defer_norm(block.norm1, table, normed)

        def inputs(rows):
            return normalize(gather_rows(source, rows))

        return packed.add_rows(table, rows, packed_attention(packed, block.attention, inputs, rows, head_keep, heads))

    def add_mlp(table, rows):
        source, normalize = packed.defer_norm(block.norm2, table)

        def transform(rows, source):
            keep = keep_of_rows(head_keep, rows, block.compute_dtype) if has_full_heads(block) else None
            return block.mlp(normalize(gather_rows(source, rows)), keep)

        return packed.add_rows(table, rows, packed.map_rows(transform, rows, source))

    table = packed.update_rows(add_attention, table, packed.select_rows(token_keep * block_keep[:, :1], broken))
    return packed.update_rows(add_mlp, table, packed.select_rows(mlp_keep * block_keep[:, 1:], broken))


def packed_single(packed, block, table, normed, token_keep, head_keep, block_keep, broken):
    """`packed_batch` of one image in fewer operations: the sub-layers share its rows, a skipped one takes none."""
    rows = packed.select_rows(token_keep, ops.zeros_like(broken))  # there is no other image to protect
    kept = gather_rows(table, rows)

    def attention(heads=None):
        inputs = block.norm1(kept) if normed is None else gather_rows(normed, rows)
        attended = packed_attention(packed, block.attention, lambda rows: inputs, rows.as_full(), head_keep, heads)
        return kept + ops.cast(attended, kept.dtype)

    def mlp(table):
        keep = keep_of_rows(head_keep, rows, block.compute_dtype) if has_full_heads(block) else None
        return table + ops.cast(block.mlp(block.norm2(table), keep), table.dtype)

    branches = [lambda: kept, attention]
    choice = ops.cast(block_keep[0, 0], "int32")
    if has_full_heads(block):
        num_tokens = token_keep.shape[1]
        branches.append(lambda: attention(packed.select_heads(head_keep, num_tokens)))
        choice = choice * (1 + ops.cast(fewer_heads_pay(head_keep, num_tokens), "int32"))
    attended = ops.switch(choice, branches)
    uses_mlp = block_keep[0, 1] > 0.5
    if gates_mlp_tokens(block):
        outputs = packed.replace_rows(table, rows, ops.cond(uses_mlp, lambda: mlp(attended), lambda: attended))
    else:
        attended = packed.replace_rows(table, rows, attended)
        outputs = ops.cond(uses_mlp, lambda: mlp(attended), lambda: attended)
    return outputs + nan_where(broken, outputs.dtype)


def packed_attention(packed, layer, inputs, rows, head_keep, heads):
    """`GatedAttention` of rows.

    Args:
        packed: As of `execute_packed`.
        layer: A `GatedAttention`.
        inputs: Function of some `Rows`, returns their normalised values (N, D).
        rows: The `Rows`.
        head_keep: Tensor (B, H) of 0 and 1, or `None`: all heads.
        heads: Integers (U,), the heads to compute, or `None`: all.

    Returns:
        Tensor (N, D).
    """
    num_used = layer.num_heads if heads is None else ops.shape(heads)[0]
    head_dim = layer.width // layer.num_heads
    head_keep = head_keep if heads is None or head_keep is None else gather(head_keep, heads, axis=1)
    qkv_shape, projection_shape = (layer.width, 3, layer.num_heads, head_dim), (layer.num_heads, head_dim, layer.width)

    def project_inputs(rows, _):
        return linear_of_heads(layer.qkv, inputs(rows), heads, qkv_shape, 2, packed.hide_size)

    def project_outputs(rows, attended):
        attended = packed.slice_chunk(attended, rows)
        return linear_of_heads(layer.projection, attended, heads, projection_shape, 0, packed.hide_size)

    qkv = packed.map_rows(project_inputs, rows)
    attended = packed.attend(qkv, rows, num_used, head_dim, head_keep, layer.partial_heads)
    return packed.map_rows(project_outputs, rows, attended)


def gates_mlp_tokens(block):
    """Whether a skipped token skips the MLP too."""
    return block.gates is not None and block.gates.gate_mlp_tokens


def has_full_heads(block):
    """Whether a skipped head is zero in attention and in the MLP."""
    return block.head_gate is not None and block.gates.heads == "full"
