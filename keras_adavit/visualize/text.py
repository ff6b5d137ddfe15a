"""What figures show, in a sentence or two: for whoever does not see them."""

import numpy as np

from keras_adavit.visualize.maps import mean_head_usage
from keras_adavit.visualize.patches import describe_block


def describe_frontier(costs, accuracies, cost, others=None):
    """Says of `frontier` what it costs to be how accurate; `cost` is the unit, such as "of the dense model's MACs"."""
    order = np.argsort(costs, kind="stable")
    points = [f"{accuracies[index]:.1%} at {costs[index]:.3g} {cost}" for index in order]
    points += [f"{name} {accuracy:.1%} at {value:.3g}" for name, (value, accuracy) in (others or {}).items()]
    return f"Accuracy against cost: {'; '.join(points)}."


def describe_histogram(macs_share):
    """Says of `macs_histogram` how the images' MACs are spread."""
    low, five, mean, ninety_five, high = (
        macs_share.min(),
        np.percentile(macs_share, 5),
        macs_share.mean(),
        np.percentile(macs_share, 95),
        macs_share.max(),
    )
    return (
        f"MACs of {len(macs_share)} images as a share of the dense model's: {low:.2f} to {high:.2f}, mean {mean:.2f}, "
        f"nine of ten between {five:.2f} and {ninety_five:.2f}."
    )


def describe_usage(tokens, heads, attention, mlp):
    """Says of `usage_by_block` where each kind is used least and most."""
    kinds = {"tokens": tokens, "heads": heads, "attention": attention, "MLP": mlp}
    parts = [
        f"{name} {np.mean(values):.0%} in the mean, from {np.min(values):.0%} in block {int(np.argmin(values))} to "
        f"{np.max(values):.0%} in block {int(np.argmax(values))}"
        for name, values in kinds.items()
    ]
    return f"Usage by block: {'; '.join(parts)}."


def describe_heads(head_keep, block_keep):
    """Says of `head_usage` which heads are used least."""
    heads = mean_head_usage(head_keep, block_keep)[:, : head_keep.shape[-1]]
    if np.isnan(heads).all():
        return "Usage of each head in each block: no image uses any block."
    block, head = np.unravel_index(np.nanargmin(heads), heads.shape)
    always = int((heads > 0.99).sum())
    return (
        f"Usage of each of {heads.shape[1]} heads in each of {heads.shape[0]} blocks: head {head} of block {block} is "
        f"used least, by {heads[block, head]:.0%} of images; {always} of {heads.size} are used by nearly all."
    )


def describe_patches(token_keep):
    """Says of `patch_usage` how much of the centre and of the border is used."""
    usage = token_keep[:, :, 1:].mean(axis=(0, 1))
    side = round(len(usage) ** 0.5)
    square = usage.reshape(side, side)
    edge = np.ones((side, side), bool)
    edge[1:-1, 1:-1] = False
    inside = f", inside it {square[~edge].mean():.0%}" if side > 2 else ""
    return f"Usage of each patch by its place, in each block: at the border {square[edge].mean():.0%}{inside}."


def describe_kept(keeps):
    """Says what each block used of one image: arrays `token_keep` (L, T), `head_keep` (L, H), `block_keep` (L, 2)."""
    depth = len(keeps["token_keep"])
    blocks = [describe_block({name: each[block] for name, each in keeps.items()}, block)[1:] for block in range(depth)]
    return "; ".join(
        f"{title} of patches, {said}".replace("\n", " and ").replace("none of patches, ", "") for title, said in blocks
    )
