"""Policies that no gate decides: what they draw, and that the model follows them."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.evaluation import evaluate as evaluation
from keras_adavit.gating.policy import POLICY_KEYS

SIZES = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
SHAPES = {"token_keep": (256, 3, 17), "head_keep": (256, 3, 3), "block_keep": (256, 3, 2)}


def make_model(gates=ka.GateConfig(), **options):  # noqa: B008, a frozen dataclass
    return ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES, gates=gates, **options), num_classes=5, **options)


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype("float32")


def arrays(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def draw(number=0, **settings):
    return arrays(ka.RandomPolicy(**settings)(SHAPES, number))


def given_keeps(count=8):
    rng = np.random.default_rng(4)
    return {key: rng.integers(0, 2, (count, *shape[1:])).astype("float32") for key, shape in SHAPES.items()}


def test_usage_is_the_given_one_and_decisions_are_independent():
    keeps = draw(tokens=0.3, heads=0.7, sublayers=0.5)
    assert {key: value.shape for key, value in keeps.items()} == SHAPES
    assert all(set(np.unique(value)) == {0.0, 1.0} for value in keeps.values())
    patches = keeps["token_keep"][:, :, 1:]
    assert (keeps["token_keep"][:, :, 0] == 1).all()
    for found, usage in ((patches, 0.3), (keeps["head_keep"], 0.7), (keeps["block_keep"], 0.5)):
        assert found.mean() == pytest.approx(usage, abs=4 * np.sqrt(usage * (1 - usage) / found.size))
    # As many images use both sub-layers as chance wants, and usage varies from image to image as a binomial does.
    assert keeps["block_keep"].prod(axis=-1).mean() == pytest.approx(0.25, abs=0.06)
    assert patches.sum(axis=(1, 2)).std() == pytest.approx(np.sqrt(48 * 0.3 * 0.7), rel=0.2)


def test_draws_are_reproducible():
    for other, same in (({}, True), ({"seed": 1}, False), ({"number": 1}, False)):
        one, two = draw(tokens=0.5), draw(tokens=0.5, **other)
        assert (one["token_keep"] == two["token_keep"]).all() == same
    assert (draw(tokens=1, heads=0)["head_keep"] == 0).all()


def test_the_model_follows_given_decisions(images):
    model, keeps = make_model(ka.GateConfig(first_token_gated_block=1)), given_keeps()
    outputs = arrays(model(images, policy=keeps, details=True))
    assert (outputs["token_keep"][:, :, 0] == 1).all()  # the class token
    assert (outputs["token_keep"][:, 0] == 1).all()  # ungated blocks
    assert (outputs["head_keep"][:, 0] == 1).all()
    assert (outputs["block_keep"][:, 0] == 1).all()
    np.testing.assert_array_equal(outputs["token_keep"][:, 1:, 1:], keeps["token_keep"][:, 1:, 1:])
    np.testing.assert_array_equal(outputs["head_keep"][:, 1:], keeps["head_keep"][:, 1:])
    np.testing.assert_array_equal(outputs["block_keep"][:, 1:], keeps["block_keep"][:, 1:])
    used = {key: ops.convert_to_tensor(outputs[key]) for key in POLICY_KEYS}
    np.testing.assert_allclose(outputs["macs"], ops.convert_to_numpy(model.macs(used)), rtol=1e-6)
    assert outputs["macs"].std() > 0
    assert all((outputs[f"{kind}_logits"] == 0).all() for kind in ("token", "head", "block"))


def test_a_models_own_policy_given_back_gives_the_same_logits(images):
    model = make_model()
    for block in model.backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.kernel.assign(np.random.default_rng(1).normal(size=gate.kernel.shape))
                gate.bias.assign(np.full(gate.bias.shape, 0.2))
    own = arrays(model(images))
    assert (own["token_keep"] == 0).any()
    for dtype in ("float32", "bool", "uint8"):
        again = arrays(model(images, policy={key: own[key].astype(dtype) for key in POLICY_KEYS}))
        np.testing.assert_array_equal(own["logits"], again["logits"])
        np.testing.assert_array_equal(own["macs"], again["macs"])


def test_a_part_of_a_policy_leaves_the_rest_to_the_gates(images):
    model = make_model()
    outputs = arrays(model(images, policy={"head_keep": given_keeps()["head_keep"]}))
    assert (outputs["head_keep"][:, 1:] == 0).any()
    assert (outputs["token_keep"] == 1).all()  # fresh gates keep everything


def test_open_gates_are_the_dense_model(images):
    gated = make_model()
    for block in gated.backbone.blocks[1:]:
        block.block_gate.bias.assign([-5.0, -5.0])
    outputs = arrays(gated(images, policy=ka.OpenPolicy()))
    assert all((outputs[key] == 1).all() for key in POLICY_KEYS)
    np.testing.assert_allclose(outputs["macs"], gated.dense_macs, rtol=1e-2)
    assert (arrays(gated(images))["block_keep"][:, 1:] == 0).all()


def test_policies_hold_in_training_too(images):
    keeps = given_keeps()
    outputs = arrays(make_model()(images, training=True, policy=keeps))
    np.testing.assert_array_equal(outputs["head_keep"][:, 1:], keeps["head_keep"][:, 1:])


def test_compiled_and_eager_agree(images):
    model, policy = make_model(), ka.RandomPolicy(0.5, 0.5, 0.5, seed=3)

    def forward(images):
        return model(images, policy=policy)["logits"]

    eager = ops.convert_to_numpy(forward(images))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec((None, 16, 16, 3))]  # any number of images
        compiled = tf.function(forward, input_signature=signature)(images)
    elif keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(forward)(images)
    else:
        compiled = forward(ops.convert_to_tensor(images))
    np.testing.assert_allclose(eager, ops.convert_to_numpy(compiled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_evaluation_under_a_policy(dtype, images):
    model = make_model(dtype=dtype)
    labels = np.zeros(8, "int32")
    batches = [(images, labels), (images[:3], labels[:3])]
    seen = []
    policy = ka.RandomPolicy(tokens=0.5, sublayers=0.2, seed=1)
    found = evaluation.evaluate(model, batches, policy, lambda labels, outputs: seen.append(outputs))
    assert found.images == 11
    assert {str(outputs[key].dtype) for outputs in seen for key in POLICY_KEYS} == {"float32"}
    assert found == evaluation.evaluate(model, batches, policy)
    assert found != evaluation.evaluate(model, batches, ka.RandomPolicy(tokens=0.5, sublayers=0.2, seed=2))
    assert 0.3 < np.mean(found.token_usage) < 0.7
    assert np.mean(found.attention_usage[1:]) < 0.5
    assert found.head_usage == [1.0, 1.0, 1.0]
    # Each batch has its own draw.
    assert (seen[0]["token_keep"][:3] != seen[1]["token_keep"]).any()
    open_found = evaluation.evaluate(model, batches, ka.OpenPolicy())
    assert open_found.macs_mean > found.macs_mean
    assert open_found.macs_share == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 1.5}, "`tokens` must be a number in [0, 1]. Received: tokens=1.5"),
        ({"heads": -0.1}, "`heads` must be a number in [0, 1]. Received: heads=-0.1"),
        ({"sublayers": 2}, "`sublayers` must be a number in [0, 1]. Received: sublayers=2"),
        ({"seed": -1}, "`seed` must be a whole number from 0 to 2147483647. Received: seed=-1"),
    ],
)
def test_impossible_usages_are_refused(settings, message):
    with pytest.raises(ka.InputError) as error:
        ka.RandomPolicy(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("policy", "gates", "message"),
    [
        (ka.OpenPolicy(), None, "`policy` needs a model with gates, unless it is a `TopKPolicy` or a `MergePolicy`"),
        (ka.TopKPolicy, ka.GateConfig(), "an `OpenPolicy`, a `TopKPolicy`, a `MergePolicy` or a dict"),
        (ka.RandomPolicy(heads=0.5), ka.GateConfig(heads=None), "`heads` must be 1 for a model without such gates"),
        ("random", ka.GateConfig(), "`policy` must be a `RandomPolicy`, an `OpenPolicy`, a `TopKPolicy`"),
        ({}, ka.GateConfig(), "or a dict of keys among"),
        ({"tokens": np.ones((8, 3, 17))}, ka.GateConfig(), "Received: ['tokens']"),
        (
            {"head_keep": np.ones((8, 2, 3))},
            ka.GateConfig(),
            "`head_keep` of `policy` must have the shape (8, 3, 3). Received: (8, 2, 3)",
        ),
        ({"token_keep": np.ones((4, 3, 17))}, ka.GateConfig(), "must have the shape (8, 3, 17)"),
    ],
)
def test_policies_that_do_not_fit_are_refused(policy, gates, message, images):
    with pytest.raises(ka.InputError) as error:
        make_model(gates)(images, policy=policy)
    assert message in str(error.value)
