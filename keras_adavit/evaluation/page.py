"""A report as one HTML page that needs nothing else: no network, no script, no other file."""

import jinja2
import markupsafe

from keras_adavit.data.pipeline import denormalize
from keras_adavit.errors import printable
from keras_adavit.evaluation.predict import class_name
from keras_adavit.evaluation.tables import count
from keras_adavit.visualize import curves, maps, patches, text
from keras_adavit.visualize.figure import to_svg

TEMPLATE = "report.html.jinja"
WIDTH, WIDEST = 4.2, 4  # inches of the pictures of an image, and pictures beside each other: readable on a telephone
SHOWN_CLASSES = 8  # at either end
SHARE = "MACs, share of the dense model's"


def render(report, facts, class_names, preprocessing):
    """The page of a `Report`.

    Args:
        report: The `Report`.
        facts: Dict of what is known about model, data and how to make the page again: `name`, `command`, and
            `reproduce`, a dict from a heading to text.
        class_names: Name of each class.
        preprocessing: The `Preprocessing` of the images.

    Returns:
        The page as text.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_adavit.evaluation", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.1f} %",
        "macs": count,
        "label": lambda label: printable(class_name(class_names, label)),
    }
    shown = SHOWN_CLASSES if len(report.classes) > 2 * SHOWN_CLASSES else len(report.classes)
    return environment.get_template(TEMPLATE).render(
        report=report,
        facts=facts,
        classes=len(class_names),
        dense_macs=report.evaluation.macs_mean / report.evaluation.macs_share,
        cheap_classes=report.classes[:shown],
        dear_classes=report.classes[shown:][-shown:],
        figures=draw_figures(report),
        cheapest=draw_examples("cheapest", report.cheapest, class_names, preprocessing),
        dearest=draw_examples("dearest", report.dearest, class_names, preprocessing),
        lost=draw_examples("lost", report.lost, class_names, preprocessing),
    )


def draw_figures(report):
    """The charts of a report: a dict of `<svg>` elements."""
    own, policy, everything = report.evaluation, report.policy, report.everything
    usage = own.token_usage, own.head_usage, own.attention_usage, own.mlp_usage
    heads = policy["head_keep"], policy["block_keep"]
    drawn = {
        "histogram": (
            curves.macs_histogram(report.macs_share, report.right),
            text.describe_histogram(report.macs_share),
        ),
        "usage": (maps.usage_by_block(*usage), text.describe_usage(*usage)),
        "heads": (maps.head_usage(*heads), text.describe_heads(*heads)),
        "patches": (maps.patch_usage(policy["token_keep"]), text.describe_patches(policy["token_keep"])),
    }
    if report.budgets:
        accuracies = [budget.evaluation.top1 for budget in report.budgets]
        shares = [budget.evaluation.macs_share for budget in report.budgets]
        others = {"as saved": (own.macs_share, own.top1), "everything used": (everything.macs_share, everything.top1)}
        said = text.describe_frontier(shares, accuracies, "of the dense model's MACs", others)
        drawn["macs"] = curves.frontier(shares, accuracies, SHARE, others=others), said
        if report.times is not None:
            times = report.times.budgets
            others = {"as saved": (report.times.own, own.top1), "dense": (report.times.dense, everything.top1)}
            said = text.describe_frontier(times, accuracies, "milliseconds an image", others)
            labels = [f"{budget.target:g}" for budget in report.budgets]
            drawn["time"] = curves.frontier(times, accuracies, "milliseconds an image", labels, others), said
    return {name: markupsafe.Markup(to_svg(figure, name, said)) for name, (figure, said) in drawn.items()}


def draw_examples(name, examples, class_names, preprocessing):
    """Single images with what each block kept: dicts of `svg`, `share`, `label`, `prediction` and `right`."""
    found = []
    pictures = 1 + examples.policy["token_keep"].shape[1]
    columns = WIDEST - 1 if pictures in (WIDEST + 1, WIDEST + 2) else min(WIDEST, pictures)  # no picture left alone
    size = WIDTH / columns - patches.GAP
    for index, image in enumerate(examples.images):
        keeps = {key: values[index] for key, values in examples.policy.items()}
        pixels = denormalize(image, preprocessing.mean, preprocessing.std)[None]
        own = {key: values[None] for key, values in keeps.items()}
        figure = patches.kept_patches(pixels, own, columns=columns, size=size, title=None, headings=["the image"])
        svg = to_svg(figure, f"{name}{index}", f"What each block kept: {text.describe_kept(keeps)}.")
        label, prediction = int(examples.labels[index]), int(examples.predictions[index])
        found.append(
            {
                "svg": markupsafe.Markup(svg),
                "share": float(examples.macs_share[index]),
                "label": label,
                "prediction": prediction,
                "right": label == prediction,
            }
        )
    return found
