"""What the models of the frontier reach, at what cost: evaluated, timed side by side, written and drawn."""

import csv
import dataclasses
import json
from functools import partial
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats
from turns import processor, time_in_turns

from keras_adavit.evaluation.analysis import Breakdown
from keras_adavit.evaluation.calibration import calibrate
from keras_adavit.evaluation.comparison import compare_decisions
from keras_adavit.evaluation.evaluate import evaluate, predictor
from keras_adavit.experiments.recipe_file import load_recipe
from keras_adavit.gating.merging import MergePolicy
from keras_adavit.gating.top_k import TopKPolicy
from keras_adavit.models.saved import load_model

ROUNDS = 5
SIDE = 64  # of a photo that a box is given in, in pixels
TIMED = {32: 256, 1: 64}  # images of a turn, by batch size
SHARE = 0.5  # of the MACs
BUDGETS = (0.35, 0.5, 0.55, 0.7)  # shares that one checkpoint is calibrated to; 0.55 is near what three blocks cost
CALIBRATED = ("adaptive-0.5", "any budget")
BATCH, CALIBRATION_BATCHES = 100, 11
DENSE = "start"  # to whose MACs and time those of all are compared: every adaptive model comes from it
UNTRAINED = {
    "top-k of dense": [TopKPolicy(percent / 100) for percent in range(99, 0, -1)],
    "merging of dense": [MergePolicy(count) for count in range(1, 100)],
}


def write_results(data, images, runs, results):
    """Evaluates every finished run of a data set, and writes `frontier-DATA.json` and `.svg`.

    Args:
        data: Name of the data set.
        images: Folder of its images.
        runs: Folder with a folder a seed, each with a folder a model.
        results: Where the files go.
    """
    found = []
    finished = sorted((path.parent for path in runs.glob("seed-*/*/results.json")), key=lambda path: path.name != DENSE)
    splits = load_recipe(finished[0] / "recipe.py").data.load(BATCH, seed=0)
    validation = splits.validation.cache()
    boxes = read_boxes(images / "boxes.tsv", splits.files) if data == "tiny_imagenet" else None
    models, policies = {}, {}
    for folder in finished:
        recipe = load_recipe(folder / "recipe.py")
        adaptive = recipe.adaptive.epochs > 0
        path = folder / ("adaptive" if adaptive else "dense") / "last.keras"
        model = load_model(path)
        models.setdefault(folder.name, model)
        dense_macs = models.get(DENSE, model).dense_macs
        breakdown = Breakdown()
        figures = evaluate(model, validation, recipe.adaptive.policy if adaptive else None, breakdown.add)
        row = describe(folder.name, recipe, figures, dense_macs)
        if adaptive and recipe.adaptive.policy is None:
            start = load_model(recipe.dense_model)
            row |= dataclasses.asdict(compare_decisions(model, validation, start))
            if boxes is not None:
                row |= box_usage(breakdown.arrays()["token_keep"], boxes, model.backbone)
        for name, policy in untrained(model, validation) if folder.name == "dense" else ():
            add(found, describe(name, recipe, evaluate(model, validation, policy), dense_macs))
            models.setdefault(name, load_model(path))
            policies[name] = policy
        add(found, row)
        if folder.name in CALIBRATED:
            some = splits.calibration.take(CALIBRATION_BATCHES).cache()
            for budget, reached in calibrated(model, some, validation):
                add(found, describe(folder.name, recipe, reached, dense_macs) | {"calibrated_to": budget})
    times = time_models(models, policies, validation)
    for row in found:
        if "calibrated_to" not in row:
            row |= times[row["model"]]
    about = {"processor": processor(), "backend": keras.backend.backend(), "images": figures.images, "models": found}
    (results / f"frontier-{data}.json").write_text(json.dumps(about, indent=2) + "\n")
    draw(found, results / f"frontier-{data}.svg")


def describe(name, recipe, figures, dense_macs):
    """What an `Evaluation` found of a model, as a row."""
    share = figures.macs_mean / dense_macs
    return {"model": name, "seed": recipe.seed, "top1": figures.top1, "macs": figures.macs_mean, "macs_share": share}


def add(found, row):
    """Adds a row, and shows it."""
    found.append(row)
    print(json.dumps(row), flush=True)


def untrained(model, validation):
    """Policies that need no training, by name, at the largest cost up to `SHARE` of the model's."""
    images = next(iter(validation.take(1)))[0][:1]
    for name, policies in UNTRAINED.items():
        for policy in policies:
            outputs = model(images, policy=policy)
            if float(outputs["macs"][0]) <= SHARE * model.dense_macs:
                yield name, policy
                break


def calibrated(model, some, validation):
    """Shifts a model's thresholds to each of `BUDGETS`: pairs of it and what is then reached; they end where they were.

    Args:
        model: An `AdaViTClassifier` with gates.
        some: Training images to calibrate on.
        validation: What is evaluated.
    """
    weights = model.get_weights()
    for budget in BUDGETS:
        calibrate(model, some, budget)
        yield budget, evaluate(model, validation)
    model.set_weights(weights)


def draw(rows, path):
    """Draws top-1 against MACs, and against time, of every model; one that was calibrated to several as a line."""
    rows = [row for row in rows if row["model"] != DENSE]  # which had fewer epochs
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axis, key, title in zip(
        axes, ("macs_share", "time_batch_32"), ("MACs", "time an image, batch 32"), strict=True
    ):
        curves = {}
        for row in (row for row in rows if key in row):
            name, point = row["model"], (row[key], 100 * row["top1"])
            if "calibrated_to" in row:
                curves.setdefault(name, []).append(point)
            elif key != "macs_share" or name not in CALIBRATED:  # which the line shows
                axis.plot(*point, "ks", markersize=4)
                axis.annotate(name, point, (5, -3), textcoords="offset points", fontsize=7)
        for name, points in curves.items():
            axis.plot(*zip(*sorted(points), strict=True), "o-", markersize=4, label=name)
        if curves:
            axis.legend(fontsize=7)
        axis.margins(x=0.12)
        axis.set_xlabel(f"{title}, share of the dense model's")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1, %")
    figure.savefig(path)


def time_models(models, policies, validation):
    """Time an image of each model, packed, over that of `DENSE`, in turns on the same images, by batch size.

    Args:
        models: By name.
        policies: Under which some of them run, by name.
        validation: From which the images are.
    """
    images = np.concatenate([np.asarray(images) for images, _ in validation.take(3)])
    ratios = {name: {} for name in models}
    for size, count in TIMED.items():
        runs = {}
        for name, model in models.items():
            policy = policies.get(name)
            model.execution = "masked" if model.backbone.gates is None and policy is None else "packed"
            runs[name] = partial(predictor(model, policy), number=0)
        seconds, _ = time_in_turns(runs, images[:count], size, ROUNDS)
        for name in models:
            each = np.divide(seconds[name], seconds[DENSE])
            ratios[name][f"time_batch_{size}"] = float(np.median(each))
    return ratios


def read_boxes(path, files):
    """The box of the object in each validation photo, in shares of its side: array (N, 4) of x0, y0, x1, y1."""
    with path.open() as file:
        boxes = {name: box for split, name, *box in csv.reader(file, delimiter="\t") if split == "val"}
    names = [Path(file).name for file in files if Path(file).parent.parent.name == "val"]
    return np.array([boxes[name] for name in names], dtype="float64") / SIDE


def box_usage(token_keep, boxes, backbone):
    """How often patches are kept whose centre is in the box, and others.

    Args:
        token_keep: Booleans (N, L, T).
        boxes: Array (N, 4), in shares of the side.
        backbone: The model's, which says how many patches a side has.

    Returns:
        A dict of `kept_in_box` and `kept_outside`, means over photos with both kinds; `others_in_box` and
        `others_outside`, the same if each photo had the decisions of all in the mean, which is what comes of boxes
        being in the middle; and `box_correlation`: Spearman's, of the share of the photo that the box takes and the
        patches kept.
    """
    side = backbone.image_size // backbone.patch_size
    centres = (np.arange(side) + 0.5) / side
    x0, y0, x1, y1 = boxes.T[:, :, None]
    inside = ((centres >= y0) & (centres <= y1))[:, :, None] & ((centres >= x0) & (centres <= x1))[:, None]  # (N, S, S)
    inside = inside.reshape(len(boxes), -1)
    kept = token_keep[:, :, 1:].mean(axis=1)  # (N, T-1)
    both = inside.any(axis=1) & ~inside.all(axis=1)
    means = {}
    for name, keep in (("kept", kept), ("others", np.broadcast_to(kept.mean(axis=0), kept.shape))):
        for place, mask in (("in_box", inside), ("outside", ~inside)):
            means[f"{name}_{place}"] = float(np.average(keep[both], axis=1, weights=mask[both]).mean())
    correlation = stats.spearmanr(inside.mean(axis=1), kept.mean(axis=1)).statistic
    return {**means, "box_correlation": float(correlation)}
