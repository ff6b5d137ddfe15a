"""What accuracy costs, and how costs are spread."""

import numpy as np

from keras_adavit.visualize.figure import COLORS, GRID, INK, new_figure, styled

BINS = 30


@styled
def frontier(costs, accuracies, cost="MACs, share of the dense model's", labels=None, others=None):
    """Accuracy against cost: a point for each budget, joined from the cheapest to the dearest.

    Args:
        costs: Cost of each budget, N numbers.
        accuracies: Accuracies in 0..1, N numbers.
        cost: What the costs are, below the axis.
        labels: Text beside each point.
        others: Dict from a name, such as `"dense"`, to another point `(cost, accuracy)`.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(4.6, 2.8)
    axis = figure.subplots()
    order = np.argsort(costs, kind="stable")
    axis.plot(np.take(costs, order), np.take(accuracies, order), marker="o", color=COLORS[0], label="adaptive")
    for index, label in enumerate(labels or ()):
        place = (costs[index], accuracies[index])
        axis.annotate(label, place, xytext=(0, -11), textcoords="offset points", ha="center", fontsize=7)
    for (name, point), color in zip((others or {}).items(), COLORS[1:], strict=False):
        axis.plot(*point, marker="D", linestyle="none", color=color, label=name)
        axis.axhline(point[1], color=color, linewidth=0.8, linestyle=":")
    axis.set(xlabel=cost, ylabel="top-1 accuracy")
    axis.margins(x=0.1, y=0.22)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axis.legend(loc="lower right")
    return figure


@styled
def macs_histogram(macs_share, right=None):
    """A histogram of images by their MACs.

    Args:
        macs_share: MACs of each image over the dense model's, N numbers.
        right: Whether each image is classified rightly, N booleans; then right and wrong ones are stacked.

    Returns:
        A matplotlib figure.
    """
    macs_share = np.asarray(macs_share, "float64")
    figure = new_figure(4.6, 2.4)
    axis = figure.subplots()
    low, high = macs_share.min(), macs_share.max()
    edges = np.linspace(low, high, BINS + 1) if high - low > 1e-6 else np.array([low - 0.01, low + 0.01])
    parts, names = [macs_share], [None]
    if right is not None:
        right = np.asarray(right, bool)
        parts, names = [macs_share[right], macs_share[~right]], ["right", "wrong"]
    axis.hist(parts, edges, stacked=True, color=COLORS[: len(parts)], label=names, edgecolor=GRID, linewidth=0.4)
    axis.axvline(macs_share.mean(), color=INK, linewidth=1, linestyle="--", label=f"mean {macs_share.mean():.2f}")
    axis.set(xlabel="MACs, share of the dense model's", ylabel="images")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
