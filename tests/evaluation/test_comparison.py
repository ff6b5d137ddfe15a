"""What decisions are worth: own, constant and another image's."""

import numpy as np
import pytest

import keras_adavit as ka
from keras_adavit.evaluation.comparison import compare_decisions, constant_policy


def test_constant_policy():
    tokens = np.array([[[1, 1, 0, 0]], [[1, 1, 0, 1]], [[1, 0, 0, 1]], [[1, 1, 0, 1]]])  # used 1, 3/4, 0, 3/4
    heads = np.array([[[1, 0]], [[1, 1]], [[1, 0]], [[0, 0]]])  # 3/4 and 1/4
    blocks = np.array([[[1, 0]], [[1, 0]], [[1, 0]], [[1, 1]]])  # 1 and 1/4
    found = constant_policy({"token_keep": tokens, "head_keep": heads, "block_keep": blocks})
    np.testing.assert_array_equal(found["token_keep"], [[1, 1, 0, 0]])  # 2.5 of 4, rounded to even: 2
    np.testing.assert_array_equal(found["head_keep"], [[1, 0]])
    np.testing.assert_array_equal(found["block_keep"], [[1, 0]])


def test_what_is_most_used_stays():
    rng = np.random.default_rng(0)
    policy = {
        key: (rng.random((50, 3, size)) < 0.4).astype("float32")
        for key, size in (("token_keep", 17), ("head_keep", 4), ("block_keep", 2))
    }
    policy["token_keep"][:, :, 0] = 1
    found = constant_policy(policy)
    for key in ("token_keep", "head_keep"):
        usage = policy[key].mean(axis=0)
        np.testing.assert_array_equal(found[key].sum(axis=1), np.round(usage.sum(axis=1)))
        for keep, used in zip(found[key], usage, strict=True):
            assert used[keep == 1].min() >= used[keep == 0].max()
    assert found["token_keep"][:, 0].all()
    assert found["block_keep"].sum() == round(policy["block_keep"].mean(axis=0).sum())


@pytest.fixture(scope="module")
def model():
    """A model whose classifier sees, through the one token that each image keeps, where that token is."""
    gates = ka.GateConfig(heads=None, blocks=False)
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(16, 8, 16, 2, 2, 2.0, gates=gates), 3)
    for block in model.backbone.blocks:
        block.token_gate.kernel.assign(np.random.default_rng(1).normal(size=block.token_gate.kernel.shape))
        block.token_gate.bias.assign([0.0])
    return model


def batches(model, count=30):
    images = np.random.default_rng(0).normal(size=(count, 16, 16, 3)).astype("float32")
    labels = model.predict(images, verbose=0)["logits"].argmax(axis=-1)  # its own decisions are always right
    return [(images[start : start + 8], labels[start : start + 8]) for start in range(0, count, 8)]


def test_own_decisions_are_right(model):
    data = batches(model)
    dense = ka.AdaViTClassifier(ka.AdaViTBackbone(16, 8, 16, 2, 2, 2.0), 3)
    found = compare_decisions(model, data, dense)
    assert (found.images, found.own) == (30, 1.0)
    assert found.constant < 1.0
    assert found.swapped < 1.0
    images = np.concatenate([images for images, _ in data])
    macs = model.predict(images, verbose=0)["macs"]
    assert found.own_share == pytest.approx(macs.mean() / model.dense_macs, rel=1e-5)
    assert found.deviation == pytest.approx(macs.std() / macs.mean(), rel=1e-4)
    assert -1 <= found.rank_correlation <= 1


def test_a_dense_models_loss_that_is_the_cost(model, monkeypatch):
    data = batches(model)
    macs = model.predict(np.concatenate([images for images, _ in data]), verbose=0)["macs"]
    monkeypatch.setattr("keras_adavit.evaluation.comparison.losses", lambda dense, dataset: -np.sqrt(macs))
    assert compare_decisions(model, data, dense=model).rank_correlation == pytest.approx(-1.0)


def test_decisions_that_do_not_depend_on_the_image(model):
    same = ka.AdaViTClassifier(ka.AdaViTBackbone(16, 8, 16, 2, 2, 2.0, gates=ka.GateConfig()), 3)
    found = compare_decisions(same, batches(model), dense=same)  # new gates keep everything
    assert found.own == pytest.approx(found.constant) == pytest.approx(found.swapped)
    assert (found.deviation, found.rank_correlation) == (0.0, None)


def test_wrong_input(model):
    with pytest.raises(ka.InputError, match=r"`model` must be an `AdaViTClassifier` with gates"):
        compare_decisions(ka.AdaViTClassifier(ka.AdaViTBackbone(16, 8, 16, 2, 2, 2.0), 3), [])
    with pytest.raises(ka.InputError, match="two images or more"):
        compare_decisions(model, batches(model, 1))
