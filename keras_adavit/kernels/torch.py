"""Kernels on torch, which fuses product and bias in `linear`; see `dispatch.py`."""

import torch
from keras import ops


def linear(inputs, kernel, bias=None, activation=None):
    bias = None if bias is None else ops.convert_to_tensor(bias)
    outputs = torch.nn.functional.linear(inputs, ops.convert_to_tensor(kernel).T, bias)
    return outputs if activation is None else activation(outputs)


def gelu(inputs):
    return torch.nn.functional.gelu(inputs)


def layer_norm(inputs, gamma, beta, epsilon):
    return ops.layer_normalization(inputs, gamma, beta, axis=-1, epsilon=epsilon)


def attention(query, key, value, mask=None, scale=None):
    if mask is not None and mask.is_floating_point():
        mask = mask.to(query.dtype)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def gradient_barrier(tensor):
    return tensor


def gather(table, indices, axis=0):
    found = table.index_select(axis, indices.reshape(-1))  # half the time of `table[indices]`
    return found.reshape(*table.shape[:axis], *indices.shape, *table.shape[axis + 1 :])
