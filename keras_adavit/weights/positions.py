"""Positions of one image size for another."""

import math

import numpy as np


def grid_side(num_tokens):
    """Side of the square grid of `num_tokens` tokens without the class token, or 0 if it is no square."""
    side = math.isqrt(max(num_tokens - 1, 0))
    return side if side**2 == num_tokens - 1 else 0


def can_resize(source, target):
    """Whether positions of one shape can be interpolated to another: (1, T, D) with square grids and the same width."""
    differ = len(source) == 3 and source[1] != target[1] and source[::2] == target[::2]
    return differ and grid_side(source[1]) > 0 and grid_side(target[1]) > 0


def resize_positions(positions, num_tokens):
    """Interpolates the positions of the grid, bicubic as DeiT does it; that of the class token stays.

    Args:
        positions: Array (1, T, D), the class token first.
        num_tokens: Tokens T' wanted.

    Returns:
        Array (1, T', D).
    """
    import torch

    old, new = grid_side(positions.shape[1]), grid_side(num_tokens)
    grid = torch.from_numpy(positions[:, 1:].reshape(1, old, old, -1).transpose(0, 3, 1, 2).copy())
    grid = torch.nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    grid = grid.numpy().transpose(0, 2, 3, 1).reshape(1, new * new, -1)
    return np.concatenate([positions[:, :1], grid], axis=1)
