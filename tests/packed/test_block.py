"""Packed execution gives what masked execution gives, whatever the policy."""

import functools

import keras
import numpy as np
import pytest
from gated import XLA_CHOICE, both, make_images, make_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops

import keras_adavit as ka
from keras_adavit.layers.block import GatedBlock
from keras_adavit.packed.block import execute_packed
from keras_adavit.packed.dispatch import backend, packed

LENGTH, WIDTH, HEADS = 10, 24, 3
HEADS_GATED = st.sampled_from(
    [{"heads": "full"}, {"heads": "full", "mlp_heads": "hidden"}, {"heads": "partial"}, {"heads": None}]
)


def build_config(heads, **gates):
    return ka.GateConfig(**heads, **gates)


CONFIGS = st.builds(
    build_config,
    heads=HEADS_GATED,
    tokens=st.just(True),
    blocks=st.booleans(),
    gate_mlp_tokens=st.booleans(),
    first_gated_block=st.sampled_from([0, 1]),
    normalize_policy_input=st.booleans(),
) | st.builds(build_config, heads=HEADS_GATED, tokens=st.just(False))
# Nothing, everything, and all between: no patch, no head, no image active, and the opposites.
USAGES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
BATCHES = st.sampled_from([1, 2, 5, 12])  # few, for JAX compiles each shape


PACKINGS = {"chosen": packed}
if backend == "tensorflow":
    from keras_adavit.packed import tensorflow_xla

    PACKINGS["XLA"] = tensorflow_xla  # what XLA compiles runs eagerly too
every_packing = pytest.mark.parametrize("packing", PACKINGS)


def block_outputs(block, inputs, policy=None, packing="chosen"):
    """Masked and packed outputs and decisions of a block, as arrays."""
    inputs = ops.convert_to_tensor(inputs)
    decisions, normed = block.decide(inputs, policy=policy)
    for outputs, decided in (
        block(inputs, policy=policy),
        (execute_packed(block, inputs, decisions, PACKINGS[packing], normed), decisions),
    ):
        yield ops.convert_to_numpy(outputs), {key: ops.convert_to_numpy(keep) for key, keep in decided.items()}


def check_equal(masked, packed, tolerance=1e-4):
    np.testing.assert_allclose(packed[0], masked[0], rtol=tolerance, atol=tolerance)
    for key in ("token_keep", "head_keep", "block_keep"):
        np.testing.assert_array_equal(packed[1][key], masked[1][key])


def make_block(config, rng, index=1, **kwargs):
    """A gated block with random weights in every variable, so that nothing agrees because it is zero."""
    block = GatedBlock(index, WIDTH, HEADS, 2 * WIDTH, config, **kwargs)
    block.build((None, LENGTH, WIDTH))
    for variable in block.trainable_variables:
        variable.assign(rng.normal(size=variable.shape, scale=0.4).astype("float32"))
    return block


def draw_policy(usages, batch, rng):
    tokens, heads, sublayers = usages
    policy = {
        "token_keep": (rng.random((batch, LENGTH)) < tokens) | (np.arange(LENGTH) == 0),
        "head_keep": rng.random((batch, HEADS)) < heads,
        "block_keep": rng.random((batch, 2)) < sublayers,
    }
    return {key: keep.astype("float32") for key, keep in policy.items()}


def draw_tokens(batch, broken, rng):
    """Tokens (B, T, D); about a third of the images hold one value `broken`, unless that is 0."""
    tokens = rng.normal(size=(batch, LENGTH, WIDTH)).astype("float32")
    chosen = rng.random(batch) < (1 / 3 if broken else 0)
    tokens[chosen, rng.integers(LENGTH), rng.integers(WIDTH)] = broken
    return tokens


PROPERTY = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
SEEDS = st.integers(0, 2**31 - 1)
BROKEN = st.sampled_from([0.0, np.nan, np.inf, -np.inf, 0.0])


@every_packing
@settings(max_examples=120, **PROPERTY)
@given(config=CONFIGS, batch=BATCHES, usages=st.tuples(USAGES, USAGES, USAGES), broken=BROKEN, seed=SEEDS)
def test_any_policy(packing, config, batch, usages, broken, seed):
    rng = np.random.default_rng(seed)
    policy = draw_policy(usages, batch, rng)
    block = make_block(config, rng)
    check_equal(*block_outputs(block, draw_tokens(batch, broken, rng), policy, packing))


@every_packing
@settings(max_examples=80, **PROPERTY)
@given(config=CONFIGS, batch=BATCHES, broken=BROKEN, seed=SEEDS)
def test_own_gates(packing, config, batch, broken, seed):
    rng = np.random.default_rng(seed)
    block = make_block(config, rng)
    check_equal(*block_outputs(block, draw_tokens(batch, broken, rng), packing=packing))


@every_packing
@pytest.mark.parametrize(("dtype", "tolerance"), [("mixed_bfloat16", 0.02), ("mixed_float16", 0.003)])
@settings(max_examples=30, **PROPERTY)
@given(config=CONFIGS, batch=st.sampled_from([1, 5]), usages=st.tuples(USAGES, USAGES), broken=BROKEN, seed=SEEDS)
def test_any_policy_in_low_precision(packing, dtype, tolerance, config, batch, usages, broken, seed):
    rng = np.random.default_rng(seed)
    policy = draw_policy((*usages, 0.7), batch, rng)
    block = make_block(config, rng, dtype=dtype)
    masked, packed = block_outputs(block, draw_tokens(batch, broken, rng), policy, packing)
    check_close(packed[0], masked[0], tolerance)


def check_close(found, expected, tolerance):
    """Where numbers are finite they agree in norm; NaN is where NaN is expected."""
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    found, expected = np.nan_to_num(found), np.nan_to_num(expected)
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


RUNS = {
    "call": lambda model, images: model(images),
    "predict": lambda model, images: model.predict(images, batch_size=4, verbose=0),
}


def predict_with_xla(model, images):
    if not model.compiled:
        model.compile(jit_compile=True)
    return RUNS["predict"](model, images)


RUNS["XLA"] = predict_with_xla
XLA_ONLY = [XLA_CHOICE, pytest.mark.slow]
every_run = pytest.mark.parametrize("run", ["call", "predict", pytest.param("XLA", marks=XLA_ONLY)])


@pytest.mark.parametrize("stem", ["patch", "t2t_performer", "t2t_transformer"])
@every_run
def test_models(run, stem):
    masked, packed = both(make_model(stem=stem), make_images(11), RUNS[run])  # a last batch of 3, too
    assert 0.2 < masked["token_keep"].mean() < 0.9
    assert masked["macs"].std() > 0
    np.testing.assert_allclose(packed.pop("logits"), masked.pop("logits"), rtol=1e-4, atol=1e-4)
    for key, value in masked.items():
        np.testing.assert_allclose(packed[key], value, rtol=1e-6)  # XLA may add up MACs in another order


def test_groups_of_images():
    """More images than one group takes, with any number of rows."""
    masked, packed = both(make_model(), make_images(23), RUNS["call"])
    np.testing.assert_allclose(packed["logits"], masked["logits"], rtol=1e-4, atol=1e-4)


ONE = {
    "all gates": ka.GateConfig(),
    "every token in the MLP": ka.GateConfig(gate_mlp_tokens=False),
    "partial heads": ka.GateConfig(heads="partial"),
    "hidden heads": ka.GateConfig(mlp_heads="hidden"),
    "tokens only": ka.GateConfig(heads=None, blocks=False),
    "no tokens": ka.GateConfig(tokens=False),
}


@pytest.mark.parametrize("name", ONE)
def test_one_image(name):
    """Alone and compiled, and after batches of several."""
    model = make_model(ONE[name], depth=4)
    masked, packed = both(model, make_images(9), RUNS["predict"])
    if model.backbone.gates.heads == "full":
        assert (masked["head_keep"][-1].sum(axis=-1) < 3).any()
    for key, value in masked.items():
        np.testing.assert_allclose(packed[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", [ka.RandomPolicy(0.0, 0.0, 0.0), ka.RandomPolicy(0.5, 0.5, 0.5), ka.OpenPolicy()])
def test_policies_of_a_model(policy):
    masked, packed = both(make_model(), make_images(4), lambda model, images: model(images, policy=policy))
    np.testing.assert_allclose(packed["logits"], masked["logits"], rtol=1e-4, atol=1e-4)


LATE = {
    "tokens first": ka.GateConfig(first_token_gated_block=0, first_gated_block=2),
    "tokens last": ka.GateConfig(first_token_gated_block=2, first_gated_block=1, normalize_policy_input=True),
    "partial heads": ka.GateConfig(heads="partial", first_gated_block=1),
    "hidden heads": ka.GateConfig(mlp_heads="hidden", first_gated_block=1),
    "no tokens": ka.GateConfig(tokens=False, first_gated_block=1),
}


@pytest.mark.parametrize("name", LATE)
def test_blocks_that_are_gated_differently(name):
    model = make_model(LATE[name], depth=4)
    masked, packed = both(model, make_images(6), RUNS["predict"])
    np.testing.assert_allclose(packed.pop("logits"), masked.pop("logits"), rtol=1e-4, atol=1e-4)
    for key, value in masked.items():
        np.testing.assert_array_equal(packed[key], value)


def compiled(model, images, policy, details):
    """What a model returns, compiled where the backend compiles."""
    if keras.backend.backend() == "jax":
        import jax

        call = functools.partial(model.stateless_call, policy=policy, details=details)
        weights = (
            [weight.value for weight in each] for each in (model.trainable_variables, model.non_trainable_variables)
        )
        return jax.jit(call)(*weights, images)[0]
    call = functools.partial(model, policy=policy, details=details)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(call, autograph=False)(tf.constant(images))
    return call(images)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", LATE)
def test_compiled_with_given_decisions(name, batch):
    """What is not gated stays used; details are those of each block."""
    model, images = make_model(LATE[name], depth=4), make_images(batch)
    given = ka.RandomPolicy(0.5, 0.5, 0.5)(model.backbone.policy_shapes(batch))
    details = ("token_logits", "head_logits", "block_logits", "class_tokens")
    for policy in (given, {"head_keep": given["head_keep"]}):
        run = functools.partial(compiled, policy=policy, details=details)
        masked, packed = both(model, images, run)
        for key, value in masked.items():
            np.testing.assert_allclose(packed[key], value, rtol=1e-4, atol=1e-4)


TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 0.05, "mixed_float16": 0.01}


@functools.cache
def compiled_pair(dtype, xla):
    """A model in a precision, and functions of (images, policy): masked and packed, compiled once where that can be."""
    model, functions = make_model(depth=2, dtype=dtype), []
    model.compile(jit_compile=xla)
    for execution in ("masked", "packed"):

        def call(images, policy, execution=execution):
            model.execution = execution
            return model(images, policy=policy)

        if keras.backend.backend() == "jax":
            import jax

            call = jax.jit(call)
        elif keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            call = tf.function(call, autograph=False, reduce_retracing=True, jit_compile=xla)
        functions.append(call)
    return model, functions


@pytest.mark.parametrize("xla", [pytest.param(False, id="plain"), pytest.param(True, id="XLA", marks=XLA_ONLY)])
@pytest.mark.parametrize("dtype", TOLERANCES)
@settings(max_examples=10, **PROPERTY)
@given(batch=st.sampled_from([1, 5]), usages=st.tuples(USAGES, USAGES, USAGES), broken=BROKEN, seed=SEEDS)
def test_compiled_models_in_every_precision(xla, dtype, batch, usages, broken, seed):
    model, (run_masked, run_packed) = compiled_pair(dtype, xla)
    images = make_images(batch)
    rng = np.random.default_rng(seed)
    chosen = rng.random(batch) < (0.4 if broken else 0.0)
    images[chosen, rng.integers(32), rng.integers(32), rng.integers(3)] = broken
    policy = ka.RandomPolicy(*usages, seed=seed)(model.backbone.policy_shapes(batch))
    masked, packed = (
        {key: ops.convert_to_numpy(value) for key, value in run(ops.convert_to_tensor(images), policy).items()}
        for run in (run_masked, run_packed)
    )
    np.testing.assert_array_equal(np.isfinite(masked["logits"]).all(axis=1), ~chosen)
    check_close(packed.pop("logits"), masked.pop("logits"), TOLERANCES[dtype])
    for key, value in masked.items():
        np.testing.assert_array_equal(packed[key], value)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_predict_in_every_precision(dtype):
    """With the decisions of its own gates, for batches and for one image, whose graph is another."""
    model = make_model(depth=2, dtype=dtype)
    for count in (6, 1):
        masked, packed = both(model, make_images(count), lambda model, images: model.predict(images, verbose=0))
        agree = np.logical_and.reduce(  # rounding may turn a decision
            [(masked[key] == packed[key]).reshape(count, -1).all(axis=1) for key in ("token_keep", "head_keep")]
        )
        assert agree.mean() > 0.6
        check_close(packed["logits"][agree], masked["logits"][agree], TOLERANCES[dtype])


def test_a_broken_image_leaves_its_neighbours_as_they_are():
    images = make_images(6)
    broken = images.copy()
    broken[[0, 5], 3, 4, 1] = np.nan, np.inf
    model = make_model()
    model.execution = "packed"
    expected, found = (model.predict(batch, verbose=0) for batch in (images, broken))
    for key, value in expected.items():
        np.testing.assert_allclose(found[key][1:5], value[1:5], rtol=1e-6, atol=1e-6)
    assert np.isnan(found["logits"][[0, 5]]).all()


@pytest.mark.parametrize("stem", ["patch", "t2t_performer"])
@pytest.mark.parametrize("run", ["call", "compiled"])
def test_an_empty_batch(run, stem):
    runs = {**RUNS, "compiled": lambda model, images: compiled(model, images, None, ())}
    masked, packed = both(make_model(stem=stem), make_images(0), runs[run])
    full = make_model(stem=stem)(make_images(2))
    for outputs in (masked, packed):
        assert {key: value.shape for key, value in outputs.items()} == {
            key: (0, *value.shape[1:]) for key, value in full.items()
        }
