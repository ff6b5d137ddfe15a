"""Which patches, heads and sub-layers each block used of single images."""

import numpy as np

from keras_adavit.errors import InputError
from keras_adavit.visualize.figure import as_array, new_figure, styled

SKIPPED = (0.55, 0.12, 0.12)  # dark red: no photo or digit is like it
EXPLAINED = "What each block used (red: skipped)"
FADE = 0.75  # how much of a skipped patch is covered
KEEPS = ("token_keep", "head_keep", "block_keep")
HEAD, TITLE, CAPTION = 0.28, 0.17, 0.30  # inches above all pictures, above one and below one
GAP = 0.08


@styled
def kept_patches(pixels, policy, headings=None, captions=None, columns=None, size=1.15, title=EXPLAINED):
    """Draws which patches each block kept of a few images: the image, then each block, the skipped patches covered.

    Above a block is the share of its patches that it kept; below it, which heads and sub-layers it used.

    Args:
        pixels: Float array (N, S, S, C) in 0..1, of 1 or 3 channels.
        policy: Dict of arrays or tensors `token_keep` (N, L, T), `head_keep` (N, L, H) and `block_keep` (N, L, 2), as
            a model returns it; other entries are not read.
        headings: Text above each image, such as its MACs.
        captions: Text below each image, such as its class, in one or two lines.
        columns: Pictures beside each other; by default the image and all its blocks.
        size: Side of a picture in inches.
        title: Text above all; `None` leaves it out.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: If an array has another shape.
    """
    pixels, keeps = as_rgb(pixels), {name: as_array(policy[name]) for name in KEEPS}
    count, depth = len(pixels), keeps["token_keep"].shape[1]
    check_patches("policy", keeps["token_keep"])
    columns = min(columns or depth + 1, depth + 1)
    lines = -(-(depth + 1) // columns)
    step, row = size + GAP, size + TITLE + CAPTION
    head = HEAD if title else 0.0
    width, height = columns * step, head + count * lines * row
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.axis("off")

    if title:
        axis.text(width / 2, head / 2, title, ha="center", va="center", fontsize=10)

    def picture(image, index, picture, title, text):
        line, column = divmod(picture, columns)
        left, top = column * step + GAP / 2, head + (index * lines + line) * row + TITLE
        axis.imshow(image, extent=(left, left + size, top + size, top), interpolation="antialiased")
        axis.text(left + size / 2, top - 0.04, title, ha="center", va="bottom", fontsize=7.5)
        axis.text(left + size / 2, top + size + 0.03, text, ha="center", va="top", fontsize=6.5, linespacing=1.1)

    for index, image in enumerate(pixels):
        heading = "" if headings is None else headings[index]
        picture(image, index, 0, heading, "" if captions is None else captions[index])
        for block in range(depth):
            used, title, text = describe_block({name: values[index, block] for name, values in keeps.items()}, block)
            picture(cover_skipped(image, used), index, block + 1, title, text)
    axis.set(xlim=(0, width), ylim=(height, 0))  # which imshow has changed
    return figure


def describe_block(keeps, block):
    """What a block used of an image: its patches (T-1,), none where both sub-layers are skipped, and this in words."""
    patches = keeps["token_keep"][1:]
    attention, mlp = keeps["block_keep"] > 0.5
    if not attention and not mlp:
        return np.zeros_like(patches), f"block {block}: none", "skipped"
    heads = int(keeps["head_keep"].sum())
    parts = [f"attention, {heads} head{'s' if heads != 1 else ''}"] if attention else []
    return patches, f"block {block}: {patches.mean():.0%}", "\n".join([*parts, *(["MLP"] if mlp else [])])


def cover_skipped(image, keep):
    """Covers the skipped patches of one image.

    Args:
        image: Array (S, S, 3) in 0..1.
        keep: Array (P²,) of 0 and 1, of P × P patches.

    Returns:
        Array (S, S, 3) in 0..1.
    """
    count = patches_a_side(len(keep))
    side = image.shape[0] // count
    mask = keep.reshape(count, count).repeat(side, axis=0).repeat(side, axis=1)[..., None]
    return np.where(mask > 0.5, image, (1 - FADE) * image + FADE * np.asarray(SKIPPED))


def as_rgb(pixels):
    """Pixels (N, S, S, 3), of 1 or 3 channels."""
    pixels = as_array(pixels)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
        raise InputError(f"`pixels` must be (N, S, S, 1) or (N, S, S, 3). Received: shape {pixels.shape}")
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def patches_a_side(count):
    """P of P × P patches."""
    return round(count**0.5)


def check_patches(argument, token_keep):
    """Raises `InputError` unless keeps (N, L, T) are of the class token and a square of patches."""
    if token_keep.ndim != 3 or patches_a_side(token_keep.shape[-1] - 1) ** 2 != token_keep.shape[-1] - 1:
        raise InputError(
            f"`{argument}` must have `token_keep` (N, L, T) of the class token and a square of patches. "
            f"Received: shape {token_keep.shape}"
        )
