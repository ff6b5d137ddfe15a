"""Tables and advice on the terminal."""

import os

from rich.table import Table
from rich.text import Text

from keras_adavit.errors import printable


def print_comparison(evaluations, seconds, console, timing=None):
    """Prints dense against adaptive.

    Args:
        evaluations: Dict from `dense` and `adaptive` to an `Evaluation`.
        seconds: Dict from either to the seconds of its training, if it was trained.
        console: A `rich` console.
        timing: A `Timing` of the adaptive model, if it was measured.
    """
    table = Table(title="Dense against adaptive, after the last epoch, on the validation images")
    table.add_column("")
    for name in evaluations:
        table.add_column(name, justify="right")
    rows = {
        "top-1 accuracy": lambda e: f"{e.top1:.2%}",
        "MACs, mean": lambda e: count(e.macs_mean),
        "MACs, share of dense": lambda e: f"{e.macs_share:.3f}",
        "MACs, 5th to 95th percentile": lambda e: f"{count(e.macs_p5)} to {count(e.macs_p95)}",
        "MACs, deviation over mean": lambda e: f"{e.macs_std / e.macs_mean:.3f}",
        "tokens used": lambda e: mean(e.token_usage),
        "heads used": lambda e: mean(e.head_usage),
        "attention used": lambda e: mean(e.attention_usage),
        "MLP used": lambda e: mean(e.mlp_usage),
        "blank patches kept": lambda e: "-" if e.blank_keep is None else f"{e.blank_keep:.3f}",
        "other patches kept": lambda e: "-" if e.ink_keep is None else f"{e.ink_keep:.3f}",
    }
    for title, show in rows.items():
        table.add_row(title, *(show(each) for each in evaluations.values()))
    table.add_row("training time", *(f"{seconds[name]:.0f} s" if name in seconds else "-" for name in evaluations))
    if timing is not None:
        speeds = {"dense": f"{timing.dense:.1f}", "adaptive": f"{timing.packed:.1f} packed, {timing.masked:.1f} masked"}
        table.add_row("images a second", *(speeds[name] for name in evaluations))
    console.print(table)


def print_timing(timing, console):
    """Prints a `Timing`."""
    how = f"{timing.images} images in batches of {timing.batch_size}, medians of {timing.rounds} turns"
    table = Table(title=f"On {timing.backend}: {how}")
    for title in ("", "images a second", "over dense", "MACs, share of dense"):
        table.add_column(title, justify="right" if title else "left")
    for name in ("dense", "masked", "packed"):
        speed, share = getattr(timing, name), 1.0 if name == "dense" else timing.macs_share
        table.add_row(name, f"{speed:.1f}", f"{speed / timing.dense:.2f}", f"{share:.3f}")
    console.print(table)


def print_curve(evaluations, console, milliseconds=None):
    """Prints what a model does at several budgets.

    Args:
        evaluations: Dict from each budget to its `Evaluation`.
        console: A `rich` console.
        milliseconds: Dict from each budget to the time an image that was reached, for budgets of time.
    """
    table = Table(title="One model at several budgets")
    titles = ("budget", "MACs, share of dense", "top-1", "loss", "tokens", "heads", "attention", "MLP")
    for title in titles if milliseconds is None else ("budget", "ms an image", *titles[1:]):
        table.add_column(title, justify="right")
    for budget, found in evaluations.items():
        reached = [] if milliseconds is None else [f"{milliseconds[budget]:.3g}"]
        usages = (found.token_usage, found.head_usage, found.attention_usage, found.mlp_usage)
        figures = f"{found.macs_share:.3f}", f"{found.top1:.2%}", f"{found.loss:.4f}"
        table.add_row(f"{budget:g}", *reached, *figures, *(mean(usage) for usage in usages))
    console.print(table)


def print_decisions(comparison, console):
    """Prints a `Comparison`."""
    table = Table(title=f"Who decides: {comparison.images} images")
    for title in ("decisions", "top-1", "MACs, share of dense"):
        table.add_column(title, justify="right" if title != "decisions" else "left")
    table.add_row("its own", f"{comparison.own:.2%}", f"{comparison.own_share:.3f}")
    table.add_row("the same for all images", f"{comparison.constant:.2%}", f"{comparison.constant_share:.3f}")
    table.add_row("another image's", f"{comparison.swapped:.2%}", f"{comparison.own_share:.3f}")
    console.print(table)
    console.print(f"MACs, deviation over mean: {comparison.deviation:.3f}", highlight=False)
    if comparison.rank_correlation is not None:
        console.print(
            f"Rank correlation of MACs and the dense model's loss: {comparison.rank_correlation:+.2f}"
            " (positive: hard images cost more)",
            highlight=False,
        )


def print_evaluation(evaluation, console):
    """Prints an `Evaluation`, with usage per block."""
    table = Table(title=f"{evaluation.images} images", show_header=False)
    table.add_row("top-1 accuracy", f"{evaluation.top1:.2%}")
    table.add_row("top-5 accuracy", f"{evaluation.top5:.2%}")
    table.add_row("loss", f"{evaluation.loss:.4f}")
    table.add_row("MACs, mean", f"{count(evaluation.macs_mean)} ({evaluation.macs_share:.3f} of the dense model's)")
    table.add_row("MACs, 5th to 95th percentile", f"{count(evaluation.macs_p5)} to {count(evaluation.macs_p95)}")
    console.print(table)
    usage = Table(title="Used, by block")
    kinds = {
        "tokens": evaluation.token_usage,
        "heads": evaluation.head_usage,
        "attention": evaluation.attention_usage,
        "MLP": evaluation.mlp_usage,
    }
    usage.add_column("block", justify="right")
    for kind in kinds:
        usage.add_column(kind, justify="right")
    for block, values in enumerate(zip(*kinds.values(), strict=True)):
        usage.add_row(str(block), *(f"{value:.3f}" for value in values))
    console.print(usage)


def print_predictions(files, predictions, console):
    """Prints the most probable classes of each image and what it cost.

    Args:
        files: Name of each image.
        predictions: A `Prediction` of each.
        console: A `rich` console.
    """
    for file, found in zip(files, predictions, strict=True):
        share = f": {found.macs_share:.3f} of the dense model's MACs"
        console.print(Text.assemble((printable(file), "bold"), share), overflow="fold")
        table = Table("class", show_edge=False)
        table.add_column("probability", justify="right")
        for name, probability in zip(found.classes, found.probabilities, strict=True):
            table.add_row(plain(name), f"{probability:.1%}")
        console.print(table, "")


def print_classes(classes, class_names, dense_macs, console, count_shown=5):
    """Prints the classes with the fewest and with the most MACs.

    Args:
        classes: List of `ClassFigures`, from the fewest MACs to the most.
        class_names: Name of each label.
        dense_macs: MACs of the dense model of the same size.
        console: A `rich` console.
        count_shown: Classes shown at either end.
    """
    few = len(classes) <= 2 * count_shown
    table = Table(title="MACs by class" if few else f"The {count_shown} classes with the fewest and the most MACs")
    for title in ("class", "images", "MACs, mean", "share of dense", "top-1"):
        table.add_column(title, justify="left" if title == "class" else "right")
    for shown in [classes] if few else [classes[:count_shown], classes[-count_shown:]]:
        for each in shown:
            share = f"{each.macs / dense_macs:.3f}"
            table.add_row(plain(class_names[each.label]), str(each.images), count(each.macs), share, f"{each.top1:.2%}")
        table.add_section()
    console.print(table)


def print_next_steps(folder, console):
    """Says what to do with a finished run."""
    prefix = backend_prefix()
    adaptive, dense = (folder / kind / "last.keras" for kind in ("adaptive", "dense"))
    steps = {"Watch the curves": f"tensorboard --logdir {folder / 'tensorboard'}"}
    if adaptive.is_file():
        steps |= {
            "Look at what it kept": folder / "policy.png",
            "Evaluate by block": f"{prefix}keras-adavit evaluate {adaptive}",
            "Try other budgets": f"{prefix}keras-adavit evaluate {adaptive} --macs 0.3 0.45 0.6",
        }
    else:
        steps["Evaluate"] = f"{prefix}keras-adavit evaluate {dense}"
    for text, command in steps.items():
        console.print(f"{text}: [bold]{command}[/bold]", highlight=False, soft_wrap=True)


def backend_prefix():
    """What comes before a command, so that it runs on the backend that was asked for here."""
    backend = os.environ.get("KERAS_BACKEND")
    return f"KERAS_BACKEND={backend} " if backend else ""


def plain(name):
    """A name as it is: what looks like markup in it is none."""
    return Text(printable(name))


def count(macs):
    """A number of MACs with a fitting unit."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if macs >= limit:
            return f"{macs / limit:.3g} {unit}"
    return f"{macs:.0f}"


def mean(usages):
    return f"{sum(usages) / len(usages):.3f}"
