import io

import numpy as np
import pytest
from gated import make_images, make_model
from keras import ops
from rich.console import Console

import keras_adavit as ka
from keras_adavit.evaluation.evaluate import evaluate
from keras_adavit.evaluation.pictures import policy_picture, verdict
from keras_adavit.evaluation.predict import FirstOutputs, predict, read_photos, softmax
from keras_adavit.evaluation.tables import print_predictions

NAMES = ("ant", "bee", "[red]cat", "$dog$", "elk\n")


@pytest.fixture
def model():
    return make_model()


@pytest.mark.parametrize("execution", ["masked", "packed"])
def test_every_image_gets_its_classes_and_its_macs(execution, model):
    images = make_images(7)
    outputs = {name: ops.convert_to_numpy(value) for name, value in model(images).items()}
    probabilities = np.exp(outputs["logits"]) / np.exp(outputs["logits"]).sum(axis=1, keepdims=True)
    model.execution = execution
    model.class_names = NAMES
    found = predict(model, [images[:5], images[5:]])
    assert len(found) == 7
    for each, own, macs in zip(found, probabilities, outputs["macs"], strict=True):
        assert list(each.labels) == np.argsort(-own).tolist()
        assert each.classes == tuple(NAMES[label] for label in each.labels)
        np.testing.assert_allclose(each.probabilities, np.sort(own)[::-1], rtol=1e-3)
        assert each.macs == pytest.approx(macs, rel=1e-4)
        assert each.macs_share == pytest.approx(macs / model.dense_macs, rel=1e-4)


def test_classes_without_names_are_numbers(model):
    (found,) = predict(model, [make_images(1)], ka.OpenPolicy())
    assert found.classes == tuple(map(str, found.labels))
    assert found.macs_share > 1  # all is used, and the gates too


def test_softmax_of_large_logits():
    np.testing.assert_allclose(softmax(np.float32([[1e4, 1e4, -1e4]])), [[0.5, 0.5, 0]])


def test_first_outputs_are_those_of_the_first_images(model):
    images = make_images(7)
    first = FirstOutputs(5)
    evaluate(model, [(images[:3], np.zeros(3, int)), (images[3:], np.zeros(4, int))], observe=first.add)
    expected = ops.convert_to_numpy(model(images[:5])["token_keep"])
    np.testing.assert_array_equal(first.arrays()["token_keep"], expected)


def test_a_model_must_know_how_images_are_prepared(model):
    with pytest.raises(ka.InputError, match=r"must know the `preprocessing`.*.*`--data`.*Received"):
        read_photos(["a.png"], model)
    model = make_model(channels=2)
    model.preprocessing = ka.Preprocessing(1.0, (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(ka.InputError, match=r"must take images of 1 or 3 channels\. Received: 2"):
        read_photos(["a.png"], model)


def test_table_shows_names_as_they_are(model):
    model.class_names = NAMES
    found = predict(model, make_images(2)[:, None])
    out = io.StringIO()
    files = ["x" * 100, "[bold]b.png"]
    print_predictions(files, found, Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for part in ("[bold]b.png", "[red]cat", r"elk\n", f"{found[1].probabilities[0]:.1%}", f"{found[1].macs_share:.3f}"):
        assert part in text


def test_verdicts():
    logits = np.float32([0, 1, 0, 0, 0])
    assert verdict(logits, None, NAMES) == f"bee\n{np.e / (np.e + 4):.0%}"
    assert verdict(logits, None, None).startswith("1\n")
    assert verdict(logits, 1, NAMES) == "bee"
    assert verdict(logits, 3, NAMES) == "\\$dog\\$,\ntaken for bee"
    assert verdict(logits, 1, ["a", "n" * 99, "b", "c", "d"]) == "n" * 23 + "…"


def test_picture_without_labels_of_given_outputs(model):
    images = make_images(2)
    outputs = {name: ops.convert_to_numpy(value) for name, value in model(images, policy=ka.OpenPolicy()).items()}
    for given in (outputs, None):
        figure = policy_picture(model, images, None, NAMES, (0.5,) * 3, (0.5,) * 3, given)
        said = " ".join(text.get_text() for text in figure.axes[0].texts)
        assert ("MACs 1.00" in said) == (given is not None)
        assert "%" in said
