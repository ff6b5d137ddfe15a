"""Positions of one image size for another."""

import math

import numpy as np

CUBIC = -0.75  # slope of the cubic kernel at distance 1: torch's


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
    old, new = grid_side(positions.shape[1]), grid_side(num_tokens)
    weights = bicubic_weights(old, new)
    grid = positions[0, 1:].reshape(old, old, -1)
    grid = np.einsum("yi,xj,ijd->yxd", weights, weights, grid, optimize=True)
    grid = grid.reshape(1, new * new, -1).astype(positions.dtype)
    return np.concatenate([positions[:, :1], grid], axis=1)


def bicubic_weights(old, new):
    """What each of `old` points counts at each of `new` points between them: float64 matrix (new, old).

    As `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: cubic convolution (Keys 1981) of the four
    nearest points, those beyond the edge being the edge, and no antialiasing.
    """
    where = (np.arange(new) + 0.5) * old / new - 0.5
    nearest = np.floor(where).astype(int)[:, None] + np.arange(-1, 3)  # (new, 4)
    distance = np.abs(where[:, None] - nearest)
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    weights = np.zeros((new, old))
    rows = np.arange(new)[:, None]
    np.add.at(weights, (rows, nearest.clip(0, old - 1)), np.where(distance <= 1, near, far))
    return weights
