"""A report: its figures, and the page of them."""

import dataclasses
import html.parser
import itertools
import re

import keras
import numpy as np
import pytest
from browser import open_page, started_browser
from gated import make_images, make_model
from keras import ops

import keras_adavit as ka
from keras_adavit.evaluation import report as reports
from keras_adavit.evaluation.evaluate import evaluate
from keras_adavit.evaluation.page import render
from keras_adavit.evaluation.thresholds import find_thresholds

NAMES = ("ant", "bee", "cat", "dog & <elk>", "fox")
COUNT, BATCH = 21, 8
VOID = {"meta", "br", "link", "img", "input", "hr"}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)  # before that of each test, whatever ran before
    return make_model(depth=2)


@pytest.fixture(scope="module")
def data(model):
    images = make_images(COUNT)
    # Right for most images: labels are what the model says, but for every fourth.
    labels = ops.convert_to_numpy(model(images)["logits"]).argmax(axis=-1)
    labels[::4] = (labels[::4] + 1) % 5
    labels[1] = 3  # the name that has to be escaped
    return [(images[start : start + BATCH], labels[start : start + BATCH]) for start in range(0, COUNT, BATCH)]


@pytest.fixture(scope="module")
def report(model, data):
    """Of budgets that nobody asked for, one of them out of reach."""
    images = np.concatenate([images for images, _ in data])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports, "BUDGETS", (0.8, 0.0001, 0.5))
        return reports.make_report(model, data, images, timed=images[:4], examples=2)


@pytest.fixture(scope="module")
def page(report):
    facts = {"name": "a <model>", "command": "keras-adavit report 'a b.keras' --out x", "reproduce": {"Model": "a & b"}}
    return render(report, facts, NAMES, ka.Preprocessing())


def test_figures(report, model, data):
    found = evaluate(model, data)
    assert report.evaluation == found
    assert report.right.mean() == pytest.approx(found.top1)
    assert report.macs_share.mean() == pytest.approx(found.macs_share)
    assert report.everything.macs_share == pytest.approx(1.0, abs=0.01)
    assert ([budget.target for budget in report.budgets], report.unreached) == ([0.5, 0.8], [0.0001])
    shares = [budget.evaluation.macs_share for budget in report.budgets]
    np.testing.assert_allclose(shares, [0.5, 0.8], atol=0.06)
    labels = np.concatenate([labels for _, labels in data])
    for budget in report.budgets:
        assert (budget.arrays["prediction"] == labels).mean() == pytest.approx(budget.evaluation.top1)
    assert len(report.times.budgets) == 2
    assert min(report.times.dense, report.times.own, *report.times.budgets) > 0
    assert sum(part["images"] for part in report.quarters) == COUNT
    assert [part["low"] for part in report.quarters] == sorted(part["low"] for part in report.quarters)
    cheap, dear = (budget.arrays["prediction"] for budget in report.budgets)
    assert report.lost_count == ((dear == labels) & (cheap != labels)).sum()
    assert sum(count for *_, count in report.confusions) <= report.lost_count
    np.testing.assert_array_less(0, (report.lost.predictions != report.lost.labels).astype(int))


def test_examples_are_the_cheapest_and_dearest(report, model, data):
    images = np.concatenate([images for images, _ in data])
    assert report.cheapest.macs_share[0] == report.macs_share.min()
    assert report.dearest.macs_share[0] == report.macs_share.max()
    own = images[report.macs_share.argmin()]
    np.testing.assert_array_equal(report.cheapest.images[0], own)
    kept = ops.convert_to_numpy(model(own[None])["token_keep"])[0]
    np.testing.assert_array_equal(report.cheapest.policy["token_keep"][0], kept)


def test_thresholds_are_as_they_were(model, data):
    kinds = ("tokens", "heads", "blocks")
    before = [ops.convert_to_numpy(each).copy() for each in find_thresholds(model, kinds)]
    images = data[0][0]
    with pytest.raises(ka.InputError, match="`macs` must be within the reach"):
        reports.make_report(model, data, images, (0.6, 0.0001))
    found = [ops.convert_to_numpy(each) for each in find_thresholds(model, kinds)]
    np.testing.assert_array_equal(found, before)


def test_page_of_less(report):
    """Speed was not measured, and there is but one budget."""
    less = dataclasses.replace(report, times=None, budgets=report.budgets[:1], lost_count=0, confusions=[])
    page = render(less, {"name": "m", "command": "c", "reproduce": {}}, NAMES, ka.Preprocessing())
    assert "Out of reach of these gates: 0.0001." in page
    assert "against time" not in page
    assert "All images cost the same" not in page
    none = dataclasses.replace(less, budgets=[], evaluation=dataclasses.replace(report.evaluation, macs_std=0.0))
    page = render(none, {"name": "m", "command": "c", "reproduce": {}}, NAMES, ka.Preprocessing())
    assert "No budget was in reach of these gates." in page
    assert "All images cost the same" in page


def test_a_model_without_gates(data):
    dense = ka.AdaViTClassifier(ka.AdaViTBackbone(image_size=32, patch_size=8, width=24, depth=2, num_heads=3), 5)
    with pytest.raises(ka.InputError, match="The model must have gates"):
        reports.make_report(dense, data, data[0][0])


class Reader(html.parser.HTMLParser):
    """Reads a page, and complains of elements that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], {}

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open[-1:]:
            self.text[tag] = f"{self.text.get(tag, '')} {' '.join(data.split())}"


def test_page(page, report):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    for heading in (
        "Accuracy against cost",
        "How costs are spread",
        "What is used",
        "The cheapest and the dearest images",
        "Classes by cost",
        "What it gets wrong when cheap",
        "How to make this page again",
    ):
        assert heading in reader.text["h2"]
    assert "keras-adavit report 'a b.keras' --out x" in reader.text["code"]
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [attributes["href"][1:] in ids for tag, attributes in reader.elements if tag == "a"] == [True] * 7
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    pictures = [attributes for tag, attributes in reader.elements if tag == "svg"]
    assert len(pictures) == 6 + len(report.cheapest.images) + len(report.dearest.images) + len(report.lost.images)
    assert all(len(each["aria-label"]) > 20 and each["role"] == "img" for each in pictures)
    assert all(attributes.get("alt") for tag, attributes in reader.elements if tag == "img")
    assert all(attributes["scope"] in ("col", "row") for tag, attributes in reader.elements if tag == "th")
    for part in ("a &lt;model&gt;", "dog &amp; &lt;elk&gt;", "a &amp; b"):
        assert part in page
    assert "<model>" not in page
    assert "<elk>" not in page


def test_page_needs_nothing_else(page):
    assert "http" not in page
    assert not re.search(r"<(script|link|iframe|object|embed)\b|@import|\bsrc=", page)
    for target in re.findall(r'(?:href|xlink:href)="([^"]*)"', page):
        assert target.startswith(("#", "data:image/png;base64,"))
    for target in re.findall(r"url\(([^)]*)\)", page):
        assert target.startswith("#")


@pytest.mark.slow
def test_page_in_a_browser(page, tmp_path):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with started_browser() as browser:
        for width, scheme in ((1200, "light"), (400, "light"), (400, "dark")):
            shown, complaints = open_page(browser, (tmp_path / "report.html").as_uri(), width, color_scheme=scheme)
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            beyond = shown.evaluate(
                "[...document.querySelectorAll('main :is(p, h2, h3, figure, svg, pre, dl, .wide)')]"
                ".filter(each => each.getBoundingClientRect().right > innerWidth + 1).map(each => each.tagName)"
            )
            assert beyond == []
            ink, paper, text = shown.evaluate(
                "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor, "
                "getComputedStyle(document.querySelector('figure svg text')).fill]"
            )
            brightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (ink, paper)]
            assert (brightness[0] > brightness[1]) == (scheme == "dark")
            assert text == ink
            assert complaints == []
