import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from gradients import gradients
from keras import ops

import keras_adavit as ka
from keras_adavit.weights.transfer import initialize_from

SIZES = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_model(gates=ka.GateConfig(), **sizes):  # noqa: B008, a frozen dataclass
    return ka.AdaViTClassifier(ka.AdaViTBackbone(**{**SIZES, **sizes}, gates=gates), num_classes=5)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(24, 16, 16, 3)).astype("float32"), rng.integers(0, 5, 24)


def test_output_is_the_documented_dict(data):
    outputs = make_model()(data[0])
    assert set(outputs) == {"logits", "token_keep", "head_keep", "block_keep", "macs"}
    assert tuple(outputs["logits"].shape) == (24, 5)
    assert tuple(outputs["macs"].shape) == (24,)


def test_fit_logs_terms_usage_and_macs(data):
    model = make_model()
    budget = ka.BudgetLoss(head_entropy=0.1, block_diversity=0.1, macs_target=0.6, token_target=0.5)
    model.compile(keras.optimizers.Adam(1e-3), LOSS, metrics=["accuracy"], budget=budget)
    history = model.fit(*data, batch_size=8, epochs=2, verbose=0, validation_data=data).history
    expected = {"loss", "accuracy", "task_loss", "token_budget_loss", "macs_budget_loss", "macs", "macs_share"}
    expected |= {"token_usage", "head_usage", "attention_usage", "mlp_usage"}
    assert set(history) == expected | {f"val_{name}" for name in expected}
    total = history["task_loss"][0] + 2 * history["token_budget_loss"][0] + 4 * history["macs_budget_loss"][0]
    assert history["loss"][0] == pytest.approx(total, rel=1e-4)
    assert history["macs"][0] == pytest.approx(history["macs_share"][0] * model.dense_macs, rel=1e-5)
    assert int(model.step) == 6


def test_fit_of_a_dense_model_logs_no_budget(data):
    model = make_model(gates=None)
    model.compile("adam", LOSS)
    history = model.fit(*data, batch_size=8, verbose=0).history
    assert set(history) == {"loss", "macs", "macs_share"}
    assert history["macs_share"] == [pytest.approx(1.0)]


@pytest.mark.parametrize("gates", [ka.GateConfig(normalize_policy_input=True), ka.GateConfig(heads="partial")])
def test_gradient_reaches_every_weight(gates, data):
    model = make_model(gates)
    model.compile(loss=LOSS, budget=ka.BudgetLoss())
    _, _, gradient = gradients(model, ops.convert_to_tensor(data[0]), ops.convert_to_tensor(data[1]))
    dead = [v.path for v in model.trainable_variables if not np.abs(gradient.get(v.path, 0)).max() > 0]
    assert dead == []


def test_budget_pulls_usage_to_its_target(data):
    model = make_model()
    budget = ka.BudgetLoss(token_target=0.3, head_target=0.7, block_target=0.8)
    model.compile(keras.optimizers.Adam(0.03), LOSS, budget=budget)
    model.fit(*data, batch_size=24, epochs=40, verbose=0)
    found = model.fit(*data, batch_size=24, epochs=5, verbose=0).history
    assert np.mean(found["token_usage"]) == pytest.approx(0.3, abs=0.15)
    assert np.mean(found["head_usage"]) == pytest.approx(0.7, abs=0.15)
    assert np.mean([found["attention_usage"], found["mlp_usage"]]) == pytest.approx(0.8, abs=0.15)


def test_macs_budget_pulls_macs_to_its_target(data):
    model = make_model()
    model.compile(keras.optimizers.Adam(0.03), LOSS, budget=ka.BudgetLoss(macs_target=0.5))
    model.fit(*data, batch_size=24, epochs=40, verbose=0)
    found = model.fit(*data, batch_size=24, epochs=5, verbose=0).history
    assert np.mean(found["macs_share"]) == pytest.approx(0.5, abs=0.12)


def test_schedules_follow_the_steps_of_training(data):
    model = make_model()
    linear = keras.optimizers.schedules.PolynomialDecay(1.0, 6, 0.2)
    model.compile("adam", LOSS, budget=ka.BudgetLoss(macs_target=linear), temperature=linear)
    terms = []
    for step in (0, 3, 6):
        model.step.assign(step)
        outputs = model(data[0], training=False)
        value = model.budget(outputs, model.backbone.gates, float(model.dense_macs), model.step)["macs"]
        terms.append(float(ops.convert_to_numpy(value)))
    # Fresh gates keep everything: the distance to the target grows as the target falls.
    np.testing.assert_allclose(np.diff(terms), [0.4, 0.4], atol=1e-3)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_decides_in_float32(precision, data):
    model = ka.AdaViTClassifier(
        ka.AdaViTBackbone(**SIZES, gates=ka.GateConfig(), dtype=precision), num_classes=5, dtype=precision
    )
    model.compile(keras.optimizers.Adam(1e-3), LOSS, budget=ka.BudgetLoss())
    history = model.fit(*data, batch_size=8, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    outputs = model(data[0])
    assert {keras.backend.standardize_dtype(value.dtype) for value in outputs.values()} == {"float32"}


def test_compiled_and_eager_training_agree(data):
    losses = []
    for eager in (True, False):
        keras.utils.set_random_seed(5)
        model = make_model()
        model.compile(keras.optimizers.SGD(0.01), LOSS, budget=ka.BudgetLoss(), run_eagerly=eager)
        losses.append(model.fit(*data, batch_size=8, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_dense_weights_start_the_gated_model(data):
    dense, gated = make_model(gates=None), make_model()
    new = initialize_from(gated, dense)
    assert {path.split("/")[-2] for path in new} == {"token_gate", "head_gate", "block_gate"}
    # Fresh gates keep everything, so the function is the same.
    np.testing.assert_allclose(
        ops.convert_to_numpy(dense(data[0])["logits"]), ops.convert_to_numpy(gated(data[0])["logits"]), atol=1e-4
    )


def test_training_the_gated_model_leaves_the_dense_one_alone(data):
    dense, gated = make_model(gates=None), make_model()
    initialize_from(gated, dense)
    before = dense.predict(data[0], verbose=0)["logits"]
    gated.compile("adam", LOSS, budget=ka.BudgetLoss())
    gated.fit(*data, batch_size=8, verbose=0)
    np.testing.assert_array_equal(dense.predict(data[0], verbose=0)["logits"], before)


def test_dense_weights_of_another_size_change_nothing():
    gated = make_model()
    before = gated.get_weights()
    with pytest.raises(ka.InputError, match="weights that do not fit"):
        initialize_from(gated, make_model(gates=None, width=12))
    for one, other in zip(before, gated.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="what torch alone is refused")
def test_torch_compile_is_refused():
    model = make_model()
    with pytest.raises(ka.InputError, match="`jit_compile` must be False or 'auto' on torch"):
        model.compile(jit_compile=True)
    model.compile(jit_compile="auto")
    assert not model.jit_compile


NAMES = ("ant", "bee", "cat", "dog", "elk")
LOADED = """
import sys
import keras, numpy as np
import keras_adavit
model = keras.saving.load_model(sys.argv[1])
data = np.load(sys.argv[2])
np.testing.assert_allclose(model.predict(data["images"], verbose=0)["logits"], data["logits"], rtol=1e-4, atol=1e-5)
assert int(model.step) == int(data["step"]), model.step
assert model.class_names == ("ant", "bee", "cat", "dog", "elk")
assert model.preprocessing == keras_adavit.Preprocessing(crop_fraction=0.9)
assert model.budget.macs_target == 0.5 and model.optimizer is not None
assert keras.backend.backend() != "torch" or not model.jit_compile
model.fit(data["images"], data["labels"], verbose=0)
assert int(model.step) > int(data["step"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("other", ["tensorflow", "jax", "torch"])
def test_model_saved_mid_training_loads_on_every_backend(other, data, tmp_path):
    pytest.importorskip(other)
    model = make_model()
    model.class_names, model.preprocessing = NAMES, ka.Preprocessing(crop_fraction=0.9)
    groups = keras.optimizers.OptimizerMap(keras.optimizers.AdamW(1e-3), {r".*_gate/.*": keras.optimizers.AdamW(1e-2)})
    model.compile(keras.optimizers.MultiOptimizer(groups), LOSS, budget=ka.BudgetLoss(macs_target=0.5))
    model.fit(*data, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    logits = model.predict(data[0], verbose=0)["logits"]
    np.savez(tmp_path / "data.npz", images=data[0], labels=data[1], logits=logits, step=int(model.step))
    subprocess.run(
        [sys.executable, "-c", LOADED, tmp_path / "model.keras", tmp_path / "data.npz"],
        env={**os.environ, "KERAS_BACKEND": other},
        check=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0.5}, "`budget` must be a `BudgetLoss` or None. Received: budget=0.5"),
        ({"temperature": -1}, "`temperature` must be positive, a finite number. Received: temperature=-1"),
        ({"budget": ka.BudgetLoss(macs_target=0.001)}, "`macs_target` must be a share in"),
        ({"budget": ka.BudgetLoss(macs_target=1e12)}, "Received: macs_target=1000000000000.0"),
    ],
)
def test_impossible_compile_arguments_are_refused(arguments, message):
    with pytest.raises(ka.InputError) as error:
        make_model().compile("adam", LOSS, **arguments)
    assert message in str(error.value)


def test_a_budget_needs_its_gate():
    with pytest.raises(ka.InputError, match="needs a model with gates"):
        make_model(gates=None).compile("adam", LOSS, budget=ka.BudgetLoss())
    with pytest.raises(ka.InputError, match="`head_target` needs a model that gates heads"):
        make_model(ka.GateConfig(heads=None)).compile("adam", LOSS, budget=ka.BudgetLoss(head_target=0.5))
    with pytest.raises(ka.InputError, match="`temperature` needs a model with gates"):
        make_model(gates=None).compile("adam", LOSS, temperature=1.0)


def test_impossible_constructor_arguments_are_refused():
    with pytest.raises(ka.InputError, match="`backbone` must be an `AdaViTBackbone`"):
        ka.AdaViTClassifier("vit", 3)
    with pytest.raises(ka.InputError, match="`num_classes` must be 1 or more"):
        ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES), 0)


def test_what_it_was_trained_on_is_part_of_the_configuration():
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES), 5, list(NAMES), ka.Preprocessing(crop_fraction=0.5))
    copy = ka.AdaViTClassifier.from_config(model.get_config())
    for each in (model, copy):
        assert each.class_names == NAMES
        assert each.preprocessing == ka.Preprocessing(crop_fraction=0.5)
    model.class_names = model.preprocessing = None
    config = model.get_config()
    assert (config["class_names"], config["preprocessing"]) == (None, None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("class_names", "abcde", "`class_names` must be a tuple of 5 strings or None. Received: class_names='abcde'"),
        ("class_names", (1, 2, 3, 4, 5), "`class_names` must be a tuple of 5 strings"),
        ("class_names", NAMES[:4], "`class_names` must be 5, one for each class. Received: 4 names"),
        ("class_names", (*NAMES[:4], "ant"), "`class_names` must differ from each other. Received: 'ant' more"),
        ("preprocessing", 0.875, "`preprocessing` must be a `Preprocessing` or None. Received: preprocessing=0.875"),
        ("preprocessing", ka.Preprocessing(mean=(0.5,), std=(0.5,)), "of the model's channels, 3. Received: 1 of each"),
        ("preprocessing", {"crop": 1}, "`Preprocessing` must be given its own fields"),
    ],
)
def test_what_it_cannot_have_been_trained_on_is_refused(name, value, message):
    model = make_model()
    for call in (
        lambda: setattr(model, name, value),
        lambda: ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES), 5, **{name: value}),
    ):
        with pytest.raises(ka.InputError) as error:
            call()
        assert message in str(error.value)
    assert getattr(model, name) is None


@pytest.mark.parametrize("stem", ["patch", "conv", "t2t_performer", "t2t_transformer"])
def test_every_layer_is_built_at_once(stem):
    """Keras on JAX calls a model with an unbuilt layer once more, eagerly, at every `predict_on_batch`."""
    backbone = ka.AdaViTBackbone(32, 16, 24, 2, 3, gates=ka.GateConfig(), stem=stem)
    model = ka.AdaViTClassifier(backbone, 5)
    assert [layer for layer in model._flatten_layers() if not layer.built] == []
