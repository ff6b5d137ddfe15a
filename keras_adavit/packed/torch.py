"""Packed execution on torch, which runs eagerly and may write in place; see `dispatch.py`."""

import sys

import torch

from keras_adavit.packed.blocks import unroll_blocks
from keras_adavit.packed.dynamic import (  # noqa: F401  part of the interface
    defer_norm,
    map_rows,
    packs_single,
    slice_chunk,
    update_rows,
)
from keras_adavit.packed.heads import used_heads_mask
from keras_adavit.packed.rows import Rows
from keras_adavit.packed.slots import apply_head_keep, attend_equal_length, attend_grouped

run_blocks = unroll_blocks


def packing(images):
    can_pack = images.device.type != "meta" and len(images) > 0  # Keras asks for shapes alone
    return sys.modules[__name__] if can_pack else None


def select_rows(keep, broken):
    keep = torch.where(broken[:, None], 0.0, keep)
    indices = (keep.reshape(-1) > 0.5).nonzero()[:, 0]
    return Rows(keep, broken, indices, is_full=len(indices) == keep.numel())


def add_rows(table, rows, values):
    values = values.to(table.dtype)
    if rows.is_full:
        return table + values
    table.index_add_(0, rows.indices, values)
    if bool(rows.broken.any()):
        table[rows.broken.repeat_interleave(rows.keep.shape[1])] = float("nan")
    return table


def replace_rows(table, rows, values):
    return values if rows.is_full else table.index_copy_(0, rows.indices, values)


def attend(qkv, rows, heads, head_dim, head_keep=None, partial=False):
    if rows.is_full:
        attended = attend_equal_length(qkv, rows.keep.shape[0], heads, head_dim)
    elif qkv.device.type == "cpu":
        attended = attend_per_image(qkv, rows, heads)
    else:
        attended = attend_grouped(qkv, rows, heads, head_dim)
    return apply_head_keep(attended, qkv, rows, heads, head_dim, head_keep, partial)


def attend_per_image(qkv, rows, heads):
    """Attention image by image, on views of the table: (N, 3·U·d) → (N, U·d)."""
    qkv = qkv.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)[:, None]  # (3, 1, U, N, d)
    images = (
        torch.nn.functional.scaled_dot_product_attention(*image).squeeze(0).transpose(0, 1)  # (count, U, d)
        for image in qkv.split(rows.counts.tolist(), dim=3)
    )
    return torch.cat(list(images)).flatten(1)


def select_heads(head_keep, num_tokens):
    return used_heads_mask(head_keep, num_tokens).nonzero()[:, 0]


def hide_size(size, heads):
    return size
