"""One image on its way through the blocks."""

from keras_adavit.files import write_whole
from keras_adavit.visualize.figure import COLORS, STYLE, as_array, new_figure, styled
from keras_adavit.visualize.patches import KEEPS, as_rgb, check_patches, cover_skipped, describe_block


@styled
def animate(pixels, policy, macs_by_block=None, title="", seconds=0.8):
    """An animation of one image over the blocks: a frame for the image, then one for each block.

    ```python
    animation = ka.visualize.animate(pixels[0], {name: values[0] for name, values in outputs.items()})
    ka.visualize.save_animation(animation, "image.gif")  # or IPython.display.HTML(animation.to_jshtml())
    ```

    Args:
        pixels: Float array (S, S, C) in 0..1, of 1 or 3 channels.
        policy: Dict of arrays `token_keep` (L, T), `head_keep` (L, H) and `block_keep` (L, 2) of the image.
        macs_by_block: What each block cost, L numbers; by default the share of patches kept is below the image.
        title: Text above the image.
        seconds: Time of a frame.

    Returns:
        A `matplotlib.animation.FuncAnimation`.

    Raises:
        InputError: If an array has another shape.
    """
    from matplotlib.animation import FuncAnimation
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = as_rgb(as_array(pixels)[None])[0]
    keeps = {name: as_array(policy[name]) for name in KEEPS}
    check_patches("policy", keeps["token_keep"][None])
    depth = len(keeps["token_keep"])
    blocks = [describe_block({name: each[block] for name, each in keeps.items()}, block) for block in range(depth)]
    heights = [used.mean() for used, *_ in blocks] if macs_by_block is None else list(macs_by_block)

    figure = new_figure(2.6, 3.5)
    FigureCanvasAgg(figure)  # an animation listens to a canvas
    above, below = figure.subplots(2, 1, height_ratios=(4, 1))
    shown = above.imshow(image, interpolation="antialiased")
    above.axis("off")
    above.set_title(title)
    text = above.text(0.5, -0.03, "\n", transform=above.transAxes, ha="center", va="top")
    bars = below.bar(range(depth), heights, color=COLORS[0])
    below.set(xlabel="block", ylabel="patches" if macs_by_block is None else "MACs", xticks=range(depth))
    below.set_ylim(0, 1 if macs_by_block is None else 1.05 * max(*heights, 1e-9))
    below.tick_params(labelsize=6)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the first layout is that of all frames

    def draw(frame):
        shown.set_data(image if frame == 0 else cover_skipped(image, blocks[frame - 1][0]))
        said = ("the image", "") if frame == 0 else blocks[frame - 1][1:]
        text.set_text(f"{said[0]}\n{said[1].replace(chr(10), ' + ')}")
        for block, bar in enumerate(bars):
            bar.set_alpha(1.0 if block < frame else 0.25)
        return [shown, text, *bars]

    return FuncAnimation(figure, draw, frames=depth + 1, interval=1000 * seconds)


def save_animation(animation, path):
    """Writes an animation as a `.gif` file, whole or not at all."""
    import matplotlib

    with write_whole(path) as unfinished, matplotlib.rc_context(STYLE):
        animation.save(unfinished, writer="pillow", dpi=100)
