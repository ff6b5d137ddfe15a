"""What all figures have in common: their looks, and how they are written.

They are made without pyplot, which would open a window where there is a screen and keep every figure in memory.
"""

import functools
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from keras import ops

from keras_adavit.files import write_whole

INK = "#1f2328"  # text and axes; an SVG in a page takes the page's own colour in its place
COLORS = ("#3b78c9", "#c0670f", "#2f8a56", "#9a57bd")  # apart for the colour-blind, readable on white and on black
GRID = "#8a919933"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # text stays text: searched, read aloud, small
    "svg.hashsalt": "keras-adavit",  # equal figures are equal files
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"


def styled(draw):
    """Lets a function draw in the style of these figures, whatever the user's own settings are."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


def as_array(values):
    """Values of any kind, a backend's tensor too, as an array."""
    return ops.convert_to_numpy(values)


def new_figure(width, height):
    """A figure of a size in inches, that a notebook shows."""
    from matplotlib.figure import Figure

    class Drawing(Figure):
        def _repr_png_(self):
            return to_png(self)

    return Drawing(figsize=(width, height), layout="constrained")


@styled
def to_png(figure, dpi=110):
    """A figure as the bytes of a PNG file."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dpi)
    return written.getvalue()


@styled
def save(figure, path, dpi=110):
    """Writes a figure to a file, whole or not at all.

    Args:
        figure: A matplotlib figure.
        path: The file; its ending says which format, such as `.png`, `.svg` or `.pdf`.
        dpi: Pixels an inch, of formats that have pixels.

    Raises:
        InputError: If the file cannot be written.
    """
    with write_whole(Path(path)) as unfinished:
        figure.savefig(unfinished, dpi=dpi)


@styled
def to_svg(figure, name, text):
    """A figure as an `<svg>` element for a page: as wide as there is room, in the colour of the page's text.

    Args:
        figure: A figure of this room.
        name: Letters and digits, others for each figure of a page; ids begin with it.
        text: What the figure shows, for whoever does not see it.

    Returns:
        The element as text.
    """
    written = io.BytesIO()
    figure.savefig(written, format="svg", transparent=True, dpi=144, metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue().replace(INK.encode(), b"currentColor"))
    for metadata in root.findall("{*}metadata"):
        root.remove(metadata)
    width = float(root.get("width").removesuffix("pt"))
    for attribute in ("width", "height", "version"):
        del root.attrib[attribute]
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        if LINK in element.attrib:
            link = element.attrib.pop(LINK)
            element.set("href", f"#{name}-{link[1:]}" if link.startswith("#") else link)
        for attribute, value in element.attrib.items():
            if attribute == "id":
                element.set("id", f"{name}-{value}")
            elif "url(#" in value:
                element.set(attribute, value.replace("url(#", f"url(#{name}-"))
    root.attrib = {
        "viewBox": root.get("viewBox"),
        "role": "img",
        "aria-label": text,
        "style": f"max-width: {width * 4 / 3:.0f}px",  # of a point
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
