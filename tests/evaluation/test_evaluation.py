from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.evaluation.evaluate import blank_patches, check_data, evaluate
from keras_adavit.evaluation.pictures import policy_picture
from keras_adavit.models.saved import load_model


@pytest.fixture
def model():
    backbone = ka.AdaViTBackbone(image_size=16, patch_size=4, width=24, depth=3, num_heads=3, gates=ka.GateConfig())
    model = ka.AdaViTClassifier(backbone, num_classes=7)
    rng = np.random.default_rng(1)
    for block in backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.kernel.assign(rng.normal(size=gate.kernel.shape))
                gate.bias.assign(np.full(gate.bias.shape, 0.3))
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(21, 16, 16, 3)).astype("float32")
    images[:, :8, :8] = 0.5  # four patches of one colour
    return images, rng.integers(0, 7, 21)


def test_any_of_several_labels_is_right(model, data):
    images, labels = data
    marked = np.eye(7, dtype="int32")[labels] | np.eye(7, dtype="int32")[(labels + 3) % 7]
    logits = ops.convert_to_numpy(model(images)["logits"])
    share = (ops.convert_to_numpy(ops.softmax(logits)) * marked).sum(axis=1)
    seen = []
    found = evaluate(model, [(images, marked)], observe=lambda labels, outputs: seen.append(labels))
    right = marked[np.arange(21), logits.argmax(axis=1)] == 1
    assert found.top1 == pytest.approx(right.mean())
    assert 0 < found.top1 < 1
    top5 = np.argsort(-logits, axis=1)[:, :5]
    assert found.top5 == pytest.approx(np.take_along_axis(marked, top5, axis=1).any(axis=1).mean())
    assert found.loss == pytest.approx(-np.log(share).mean(), rel=1e-4)
    assert ((seen[0] == logits.argmax(axis=1)) == right).all()
    assert (marked[np.arange(21), seen[0]] == 1).all()


def test_every_image_counts_once_whatever_the_batches(model, data):
    images, labels = data
    found = [evaluate(model, [(images[i : i + n], labels[i : i + n]) for i in range(0, 21, n)]) for n in (21, 8)]
    outputs = {name: ops.convert_to_numpy(value) for name, value in model(images).items()}
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, outputs["logits"])
    order = np.argsort(-outputs["logits"], axis=1)
    for each in found:
        assert each.images == 21
        assert each.loss == pytest.approx(float(ops.convert_to_numpy(entropy)), rel=1e-5)
        assert each.top1 == pytest.approx((order[:, 0] == labels).mean())
        assert each.top5 == pytest.approx((order[:, :5] == labels[:, None]).any(axis=1).mean())
        assert each.macs_mean == pytest.approx(outputs["macs"].mean(), rel=1e-5)
        assert each.macs_p95 == pytest.approx(np.percentile(outputs["macs"], 95), rel=1e-5)
        assert each.macs_share == pytest.approx(outputs["macs"].mean() / model.dense_macs, rel=1e-5)
        np.testing.assert_allclose(each.token_usage, outputs["token_keep"].mean(axis=(0, 2)), rtol=1e-5)
        np.testing.assert_allclose(each.mlp_usage, outputs["block_keep"][..., 1].mean(axis=0), rtol=1e-5)
        patches = outputs["token_keep"][:, :, 1:].mean(axis=1).reshape(21, 4, 4)
        assert each.blank_patches == pytest.approx(0.25)
        assert each.blank_keep == pytest.approx(patches[:, :2, :2].mean(), rel=1e-5)


def test_logits_that_are_no_numbers_count_as_wrong(model, data):
    model.head.bias.assign([np.nan] * 7)
    found = evaluate(model, [data])
    assert (found.top1, found.top5) == (0.0, 0.0)


def test_no_image_is_an_error(model):
    with pytest.raises(ka.InputError, match="at least one image"):
        evaluate(model, [])


def test_blank_is_one_colour_in_every_channel():
    images = np.zeros((1, 4, 4, 2), "float32")
    images[0, :2, :2, 0] = 1.0  # one colour
    images[0, 3, 3, 1] = 1.0  # not one colour
    np.testing.assert_array_equal(blank_patches(images, 2), [[True, True, True, False]])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abcdefx", "The data must have the model's classes. Received: class 6 'x', of the model 'g'"),
        (
            "bacdefg",
            "classes in its order. Received: the same in another order: class 0 'b', of the model 'a'; class 1",
        ),
        ("gfedcba", "class 2 'e', of the model 'c', and 3 more"),
        ("abcdef", "The data must have 7 classes, as the model. Received: 6 classes"),
    ],
)
def test_data_of_other_classes_is_refused(names, message, model):
    splits = SimpleNamespace(class_names=tuple(names))
    if len(names) == 7:
        check_data(model, splits, (16, 16, 3))  # the model knows no names
    model.class_names = tuple("abcdefg")
    check_data(model, SimpleNamespace(class_names=tuple("abcdefg")), (16, 16, 3))
    with pytest.raises(ka.InputError) as error:
        check_data(model, splits, (16, 16, 3))
    assert message in str(error.value)


def test_load_model_ignores_what_it_trained_with(model, tmp_path):
    def unknown_loss(labels, logits):
        return ops.mean(logits)

    model.compile("adam", unknown_loss)
    model.save(tmp_path / "model.keras")
    assert isinstance(load_model(tmp_path / "model.keras"), ka.AdaViTClassifier)


def test_picture(model, data):
    images, labels = data
    figure = policy_picture(model, images[:3], labels[:3], [f"class {k}" for k in range(7)], (0.5,) * 3, (0.2,) * 3)
    (axis,) = figure.axes
    assert len(axis.images) == 3 * 4
    said = " ".join(text.get_text() for text in axis.texts)
    for image in range(3):
        assert f"class {labels[image]}" in said
        assert f"MACs {ops.convert_to_numpy(model(images)['macs'])[image] / model.dense_macs:.2f}" in said
