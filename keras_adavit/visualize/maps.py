"""Heat maps and lines of usage, by block."""

import numpy as np

from keras_adavit.visualize.figure import COLORS, as_array, new_figure, styled
from keras_adavit.visualize.patches import check_patches, patches_a_side

MAP = "cividis"  # in order for every eye, and in grey
KINDS = {"tokens": "o", "heads": "s", "attention": "^", "MLP": "D"}
WRITTEN = 16  # columns that have room for numbers


@styled
def head_usage(head_keep, block_keep):
    """A heat map of usage, block × head, and beside it each block's attention and MLP.

    Args:
        head_keep: Array (N, L, H), 1 use and 0 skip. A head's usage is its mean over the images in which the block
            uses a sub-layer, as in the budget; grey where there is none.
        block_keep: Array (N, L, 2): attention, MLP.

    Returns:
        A matplotlib figure.
    """
    from matplotlib import colormaps

    values = mean_head_usage(head_keep, block_keep)
    depth, columns = values.shape
    figure = new_figure(min(0.42 * columns + 1.1, 7.5), 0.26 * depth + 0.75)
    axis = figure.subplots()
    map_ = colormaps[MAP].with_extremes(bad="#888888")
    image = axis.imshow(np.ma.masked_invalid(values), cmap=map_, vmin=0, vmax=1, aspect="auto")
    names = [str(head) for head in range(columns - 2)]
    axis.set_xticks(range(columns), [*names, "attn", "MLP"])
    axis.set_yticks(range(depth), range(depth))
    axis.set(xlabel="head, then the sub-layers", ylabel="block")
    axis.axvline(columns - 2.5, color="white", linewidth=3)
    bare(axis)
    if columns <= WRITTEN:
        for (block, column), value in np.ndenumerate(values):
            said = "–" if np.isnan(value) else f"{100 * value:.0f}"
            color = "white" if np.isnan(value) or value < 0.55 else "black"
            axis.text(column, block, said, ha="center", va="center", fontsize=7, color=color)
    add_scale(figure, image, axis)
    return figure


def mean_head_usage(head_keep, block_keep):
    """Usage (L, H + 2) of each head, attention and MLP of each block; NaN where no image uses a block's heads."""
    head_keep, block_keep = (as_array(keep).astype("float64") for keep in (head_keep, block_keep))
    active = block_keep.max(axis=-1, keepdims=True)  # (N, L, 1)
    images = active.sum(axis=0)
    heads = np.full(head_keep.shape[1:], np.nan)
    np.divide((head_keep * active).sum(axis=0), images, out=heads, where=images > 0)
    return np.concatenate([heads, block_keep.mean(axis=0)], axis=-1)


@styled
def patch_usage(token_keep, columns=4):
    """Heat maps of usage, block × position of the patch: a square of patches for each block.

    Args:
        token_keep: Array (N, L, T), 1 use and 0 skip, the class token first.
        columns: Blocks beside each other.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: If `token_keep` has another shape.
    """
    token_keep = as_array(token_keep)
    check_patches("policy", token_keep)
    usage = token_keep[:, :, 1:].mean(axis=0)  # (L, T-1)
    side, columns = patches_a_side(usage.shape[1]), min(columns, len(usage))
    lines = -(-len(usage) // columns)
    figure = new_figure(1.15 * columns + 0.7, 1.32 * lines)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(usage) :]:
        axis.axis("off")
    for block, (axis, values) in enumerate(zip(axes.flat, usage, strict=False)):
        image = axis.imshow(values.reshape(side, side), cmap=MAP, vmin=0, vmax=1)
        axis.set_title(f"block {block}: {values.mean():.0%}", fontsize=8, pad=3)
        axis.set(xticks=[], yticks=[])
        bare(axis)
    add_scale(figure, image, axes)
    return figure


@styled
def usage_by_block(tokens, heads, attention, mlp):
    """Lines of usage over the blocks: four lists of L numbers in 0..1, as in an `Evaluation`."""
    figure = new_figure(4.6, 2.5)
    axis = figure.subplots()
    for (name, marker), values, color in zip(KINDS.items(), (tokens, heads, attention, mlp), COLORS, strict=True):
        axis.plot(range(len(values)), values, marker=marker, color=color, label=name)
    axis.set(xlabel="block", ylabel="usage", ylim=(-0.03, 1.03), xticks=range(len(tokens)))
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def bare(axis):
    """Leaves the frame, grid and tick marks of an axis out."""
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def add_scale(figure, image, axes):
    """A scale of usage beside a figure."""
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=25)
    bar.outline.set_visible(False)
    bar.set_ticks([0, 0.5, 1], labels=["0 %", "50 %", "100 %"])
    bar.ax.tick_params(length=0, labelsize=7)
