"""Training under a random policy: what it draws, and that only training sees it."""

import keras
import numpy as np
import pytest
from gradients import gradients
from keras import ops

import keras_adavit as ka

SIZES = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
POLICY = ka.RandomPolicy(tokens=0.3, heads=0.6, sublayers=0.5, seed=4)


def make_model(gates=ka.GateConfig(), **compiled):  # noqa: B008, a frozen dataclass
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES, gates=gates), num_classes=5)
    model.compile(keras.optimizers.SGD(0.01), LOSS, **{"training_policy": POLICY, **compiled})
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 16, 16, 3)).astype("float32"), rng.integers(0, 5, 64)


def arrays(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def test_every_step_draws_decisions_of_the_given_usages(data):
    model = make_model(ka.GateConfig(first_token_gated_block=1))
    one, two = (arrays(model(data[0], training=True)) for _ in range(2))
    assert all((outputs["token_keep"][:, :, 0] == 1).all() for outputs in (one, two))  # the class token
    for key, usage in (("token_keep", 0.3), ("head_keep", 0.6), ("block_keep", 0.5)):
        assert (one[key] != two[key]).any()
        assert (one[key][:, 0] == 1).all()  # the first block is not gated
        keeps = one[key][:, 1:, 1:] if key == "token_keep" else one[key][:, 1:]
        assert set(np.unique(keeps)) == {0.0, 1.0}
        assert keeps.mean() == pytest.approx(usage, abs=4 * np.sqrt(usage * (1 - usage) / keeps.size))
    again = arrays(make_model(ka.GateConfig(first_token_gated_block=1))(data[0], training=True))
    np.testing.assert_array_equal(one["token_keep"], again["token_keep"])  # the seed is the policy's


def test_evaluation_and_given_policies_are_as_always(data):
    model = make_model()
    plain = arrays(model(data[0]))
    assert all((plain[key] == 1).all() for key in ("token_keep", "head_keep", "block_keep"))  # new gates
    opened = arrays(model(data[0], training=True, policy=ka.OpenPolicy()))
    assert (opened["token_keep"] == 1).all()
    model.compile("sgd", LOSS)
    assert (arrays(model(data[0], training=True))["token_logits"] != 0).any()  # the gates decide again


class Draws(keras.callbacks.Callback):
    """Usages of each step of `fit`, which shows only running means otherwise."""

    def on_train_begin(self, logs=None):
        self.found = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.found.append((logs["token_usage"], logs["head_usage"], logs["attention_usage"], logs["mlp_usage"]))


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_fit_draws_afresh_at_every_step(eager, data):
    model = make_model(budget=ka.BudgetLoss(), run_eagerly=eager)
    before = {weight.path: ops.convert_to_numpy(weight) for weight in model.trainable_weights}
    draws = Draws()
    history = model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[draws], validation_data=data).history
    usages = np.array(draws.found)
    assert len(usages) == 8
    assert len(np.unique(usages[:, 0])) > 4
    np.testing.assert_allclose(usages[:, 0].mean(), (1 + 16 * 0.3) / 17, atol=0.03)
    np.testing.assert_allclose(usages[:, 1].mean(), 0.6, atol=0.08)
    assert history["val_token_usage"] == [1.0, 1.0]
    after = {weight.path: ops.convert_to_numpy(weight) for weight in model.trainable_weights}
    still = {path for path, value in after.items() if (value == before[path]).all()}
    assert still == {path for path in after if "_gate/" in path}  # only the gates learn nothing


def test_gates_have_a_gradient_of_zero(data):
    model = make_model(ka.GateConfig(normalize_policy_input=True))
    images, labels = (ops.convert_to_tensor(each) for each in data)
    _, _, gradient = gradients(model, images, labels)
    assert set(gradient) == {weight.path for weight in model.trainable_weights}
    assert {path for path, value in gradient.items() if not value.any()} == {
        weight.path for block in model.backbone.blocks for weight in block.gate_weights
    }


REDUCTIONS = {"top-k": ka.TopKPolicy(tokens=0.5), "merging": ka.MergePolicy(merged=4)}
COUNTS = {"top-k": [17, 9, 5], "merging": [17, 13, 9]}


@pytest.mark.parametrize("gates", [None, ka.GateConfig()])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_fit_on_fewer_tokens(name, gates, data):
    """Top-k and merging need no gates, and learn; evaluation computes everything, unless it is told otherwise."""
    model = make_model(gates, training_policy=REDUCTIONS[name])
    before = {weight.path: ops.convert_to_numpy(weight) for weight in model.trainable_weights}
    trained = arrays(model(data[0], training=True))
    np.testing.assert_array_equal(trained["token_keep"].sum(axis=2), [COUNTS[name]] * 64)
    history = model.fit(*data, batch_size=16, epochs=3, verbose=0, validation_data=data).history
    share = model.macs(REDUCTIONS[name]) / model.dense_macs
    np.testing.assert_allclose(history["macs_share"], share, rtol=1e-5)
    np.testing.assert_allclose(history["val_macs_share"], 1, rtol=1e-2)
    assert history["loss"][-1] < history["loss"][0]
    after = {weight.path: ops.convert_to_numpy(weight) for weight in model.trainable_weights}
    still = {path for path, value in after.items() if (value == before[path]).all()}
    assert still == {path for path in after if "_gate/" in path}  # only the gates learn nothing


@pytest.mark.parametrize("name", REDUCTIONS)
def test_gradients_on_fewer_tokens_are_those_of_the_loss(name, data):
    """Of a weight that the decision, which is made by the attention of block 0, does not depend on."""
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**{**SIZES, "depth": 2}), num_classes=5)
    model.compile("sgd", LOSS, training_policy=REDUCTIONS[name])
    images, labels = (ops.convert_to_tensor(each[:8]) for each in data)
    _, _, gradient = gradients(model, images, labels)
    path, value = next((path, value) for path, value in gradient.items() if "block_0/mlp/reduce/kernel" in path)
    weight = next(weight for weight in model.trainable_weights if weight.path == path)
    start, step = ops.convert_to_numpy(weight), 1e-2 * value / np.linalg.norm(value)

    def loss_at(values):
        weight.assign(values)
        return float(ops.convert_to_numpy(LOSS(labels, model(images, policy=REDUCTIONS[name])["logits"])))

    slope = (loss_at(start + step) - loss_at(start - step)) / 2e-2
    assert slope == pytest.approx(np.linalg.norm(value), rel=0.05)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_distillation_on_fewer_tokens(name, data):
    model = make_model(None, training_policy=REDUCTIONS[name])
    distillation = ka.DistillationLoss(attention_weight=1.0, token_weight=1.0)
    options = {"teacher": make_model(None, training_policy=None), "distillation": distillation}
    model.compile("sgd", LOSS, training_policy=REDUCTIONS[name], **options)
    history = model.fit(*data, batch_size=32, verbose=0).history
    for kind in ("logit", "attention", "token"):
        assert np.isfinite(history[f"{kind}_distillation_loss"]).all()


@pytest.mark.parametrize("policy", REDUCTIONS.values(), ids=REDUCTIONS)
def test_reductions_are_saved_with_the_model(policy, tmp_path):
    make_model(None, training_policy=policy).save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").training_policy == policy


def test_with_patch_dropout(data):
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES, patch_dropout=0.5), num_classes=5)
    outputs = arrays(model(data[0], training=True, policy=ka.MergePolicy(2)))
    np.testing.assert_array_equal(outputs["token_keep"].sum(axis=2), [[9, 7, 5]] * 64)


def test_it_is_saved_with_the_model(data, tmp_path):
    model = make_model(budget=ka.BudgetLoss(macs_target=0.5))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.training_policy == POLICY
    assert loaded.budget == model.budget
    found, expected = (arrays(each(data[0], training=True)) for each in (loaded, model))
    np.testing.assert_array_equal(found["token_keep"], expected["token_keep"])


@pytest.mark.parametrize(
    ("policy", "gates", "message"),
    [
        (
            0.5,
            ka.GateConfig(),
            "`training_policy` must be a `RandomPolicy`, a `TopKPolicy`, a `MergePolicy` or None. R",
        ),
        (ka.OpenPolicy(), ka.GateConfig(), "`training_policy` must be a `RandomPolicy`, a `TopKPolicy`"),
        (ka.TopKPolicy(blocks=(3,)), None, "`blocks` must be below the depth of the model, 3. Received: blocks=(3,)"),
        (POLICY, None, "`training_policy` needs a model with gates"),
        (POLICY, ka.GateConfig(heads=None), "`heads` must be 1 for a model without such gates. Received: heads=0.6"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(policy, gates, message):
    model = make_model(gates, training_policy=None)
    with pytest.raises(ka.InputError) as error:
        model.compile("sgd", LOSS, training_policy=policy)
    assert message in str(error.value)
    assert model.training_policy is None
