"""Packed execution on TensorFlow, eagerly and in graphs, with shapes that depend on data; see `dispatch.py`."""

import sys

import tensorflow as tf
from keras import ops
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from keras_adavit.packed import tensorflow_xla
from keras_adavit.packed.blocks import open_ungated, step_with, unroll_blocks, weights_like
from keras_adavit.packed.dynamic import (  # noqa: F401  part of the interface
    defer_norm,
    map_rows,
    packs_single,
    slice_chunk,
    update_rows,
)
from keras_adavit.packed.heads import used_heads_mask
from keras_adavit.packed.rows import Rows, add_to_all, nan_where
from keras_adavit.packed.slots import apply_head_keep, attend_equal_length, attend_grouped


def packing(images):
    if images.shape[0] == 0:  # nothing to pack
        return None
    # TensorFlow has no public name for it. How the model was compiled does not tell: another may call it, and was, too.
    in_xla = GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    return tensorflow_xla if in_xla else sys.modules[__name__]


def run_blocks(blocks, step, tokens, given):
    """Calls of one function, whose graph the blocks share, and of another for one image, which is simpler."""
    if tf.executing_eagerly():
        return unroll_blocks(blocks, step, tokens, given)
    template = blocks[-1]
    given = [open_ungated(block, keeps) for block, keeps in zip(blocks, given, strict=True)]
    weights = {block.name: [tf.convert_to_tensor(value) for value in weights_like(block, template)] for block in blocks}

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def run(weights, tokens, keeps):
        return step_with(step, template, weights, tokens, keeps)

    def run_all(tokens, given):
        return unroll_blocks(blocks, lambda block, *inputs: run(weights[block.name], *inputs), tokens, given)

    def run_one():
        # Known to be one image, but not by a reshape, from which TensorFlow would infer that it always is.
        only = tf.zeros((1,), "int32")
        return run_all(*tf.nest.map_structure(lambda tensor: tf.gather(tensor, only), (tokens, given)))

    return ops.cond(ops.shape(tokens)[0] == 1, run_one, lambda: run_all(tokens, given))


def select_rows(keep, broken):
    keep = tf.where(broken[:, None], 0.0, keep)
    return Rows(keep, broken, true_indices(tf.reshape(keep, (-1,)) > 0.5))


def true_indices(mask):
    """Indices of the true elements of a vector, ascending: int32 (N,)."""
    return tf.reshape(tf.cast(tf.where(mask), tf.int32), (-1,))


def add_rows(table, rows, values):
    values = tf.cast(values, table.dtype)
    if rows.is_full:
        return table + values
    return ops.cond(
        ops.shape(rows.keep)[0] == 1,  # fewer operations count for more than all cores
        lambda: tf.tensor_scatter_nd_add(table, rows.indices[:, None], values) + nan_where(rows.broken, table.dtype),
        lambda: add_to_all(table, rows, values),
    )


def replace_rows(table, rows, values):
    return values if rows.is_full else tf.tensor_scatter_nd_update(table, rows.indices[:, None], values)


def attend(qkv, rows, heads, head_dim, head_keep=None, partial=False):
    if rows.is_full:
        attended = attend_equal_length(qkv, rows.keep.shape[0], heads, head_dim)
    else:
        attended = ops.cond(
            ops.shape(rows.keep)[0] == 1,  # one image needs no slots
            lambda: attend_equal_length(qkv, 1, heads, head_dim),
            lambda: attend_grouped(qkv, rows, heads, head_dim),
        )
    return apply_head_keep(attended, qkv, rows, heads, head_dim, head_keep, partial)


def select_heads(head_keep, num_tokens):
    return true_indices(used_heads_mask(head_keep, num_tokens))


def hide_size(size, heads):
    # The same number. If TensorFlow knew it, ONNX files would hold every kernel twice.
    return tf.maximum(tf.shape(heads)[0], size)
