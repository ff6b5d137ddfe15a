"""Packed execution gives what masked execution gives, whatever the policy."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops

import keras_adavit as ka
from keras_adavit.inference import packed as packed_module
from keras_adavit.layers.block import GatedBlock

LENGTH, WIDTH, HEADS = 10, 24, 3
CONFIGS = st.builds(
    ka.GateConfig,
    tokens=st.just(True),
    heads=st.sampled_from(["full", "partial", None]),
    blocks=st.booleans(),
    gate_mlp_tokens=st.booleans(),
    first_gated_block=st.sampled_from([0, 1]),
    normalize_policy_input=st.booleans(),
) | st.builds(ka.GateConfig, tokens=st.just(False), heads=st.sampled_from(["full", "partial", None]))
# Nothing, everything, and all between: no patch, no head, no image active, and the opposites.
USAGES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
BATCHES = st.sampled_from([1, 2, 5, 12])  # few, for JAX compiles each shape


def block_outputs(block, inputs, policy=None):
    """Masked and packed outputs and decisions of a block, as arrays."""
    for packed in (False, True):
        outputs, decisions = block(ops.convert_to_tensor(inputs), policy=policy, packed=packed)
        yield ops.convert_to_numpy(outputs), {key: ops.convert_to_numpy(keep) for key, keep in decisions.items()}


def check_equal(masked, packed, tolerance=1e-4):
    np.testing.assert_allclose(packed[0], masked[0], rtol=tolerance, atol=tolerance)
    for key in ("token_keep", "head_keep", "block_keep"):
        np.testing.assert_array_equal(packed[1][key], masked[1][key])


def make_block(config, rng, index=1):
    """A gated block with random weights in every variable, so that nothing agrees because it is zero."""
    block = GatedBlock(index, WIDTH, HEADS, 2 * WIDTH, config)
    block.build((None, LENGTH, WIDTH))
    for variable in block.trainable_variables:
        variable.assign(rng.normal(size=variable.shape, scale=0.4).astype("float32"))
    return block


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(config=CONFIGS, batch=BATCHES, usages=st.tuples(USAGES, USAGES, USAGES), seed=st.integers(0, 2**31 - 1))
def test_any_policy(config, batch, usages, seed):
    rng = np.random.default_rng(seed)
    tokens, heads, sublayers = usages
    policy = {
        "token_keep": (rng.random((batch, LENGTH)) < tokens) | (np.arange(LENGTH) == 0),
        "head_keep": rng.random((batch, HEADS)) < heads,
        "block_keep": rng.random((batch, 2)) < sublayers,
    }
    policy = {key: keep.astype("float32") for key, keep in policy.items()}
    block = make_block(config, rng)
    check_equal(*block_outputs(block, rng.normal(size=(batch, LENGTH, WIDTH)).astype("float32"), policy))


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(config=CONFIGS, batch=BATCHES, seed=st.integers(0, 2**31 - 1))
def test_own_gates(config, batch, seed):
    rng = np.random.default_rng(seed)
    block = make_block(config, rng)
    check_equal(*block_outputs(block, rng.normal(size=(batch, LENGTH, WIDTH)).astype("float32")))


def make_model(gates=None, stem="patch", depth=3, **kwargs):
    """A small classifier with gates that decide differently for each image."""
    gates = ka.GateConfig() if gates is None else gates
    sizes = {"image_size": 32, "patch_size": 16 if stem != "patch" else 8, "width": 24, "depth": depth, "num_heads": 3}
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**sizes, mlp_ratio=2.0, gates=gates, stem=stem, **kwargs), 5)
    rng = np.random.default_rng(1)
    for block in model.backbone.blocks:
        for gate in (block.token_gate, block.head_gate, block.block_gate):
            if gate:
                gate.kernel.assign(rng.normal(size=gate.kernel.shape))
                gate.bias.assign(rng.normal(size=gate.bias.shape))
    return model


def make_images(batch, size=32):
    return np.random.default_rng(2).normal(size=(batch, size, size, 3)).astype("float32")


def both(model, images, run):
    """What `run(model, images)` gives masked and packed, two dicts of arrays."""
    found = []
    for execution in ("masked", "packed"):
        model.execution = execution
        found.append({key: ops.convert_to_numpy(value) for key, value in run(model, images).items()})
    return found


RUNS = {
    "call": lambda model, images: model(images),
    "predict": lambda model, images: model.predict(images, batch_size=4, verbose=0),
}


@pytest.mark.parametrize("stem", ["patch", "t2t_performer", "t2t_transformer"])
@pytest.mark.parametrize("run", RUNS)
def test_models(run, stem):
    masked, packed = both(make_model(stem=stem), make_images(11), RUNS[run])  # a last batch of 3, too
    assert 0.2 < masked["token_keep"].mean() < 0.9
    assert masked["macs"].std() > 0
    np.testing.assert_allclose(packed.pop("logits"), masked.pop("logits"), rtol=1e-4, atol=1e-4)
    for key, value in masked.items():
        np.testing.assert_array_equal(packed[key], value)


def test_groups_of_images():
    """More images than one group takes, with any number of rows."""
    masked, packed = both(make_model(), make_images(23), RUNS["call"])
    np.testing.assert_allclose(packed["logits"], masked["logits"], rtol=1e-4, atol=1e-4)


ONE = {
    "all gates": ka.GateConfig(),
    "every token in the MLP": ka.GateConfig(gate_mlp_tokens=False),
    "partial heads": ka.GateConfig(heads="partial"),
    "tokens only": ka.GateConfig(heads=None, blocks=False),
    "no tokens": ka.GateConfig(tokens=False),
}


@pytest.mark.parametrize("name", ONE)
def test_one_image(name, monkeypatch):
    """Alone and compiled, with heads left out wherever one is not used, and after batches of several."""
    monkeypatch.setattr(packed_module, "GATHER_COST", 0)
    model = make_model(ONE[name], depth=4)
    masked, packed = both(model, make_images(9), lambda model, images: model.predict(images, batch_size=4, verbose=0))
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


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model(depth=2)
    finally:
        keras.config.set_dtype_policy("float32")
    policy = ka.RandomPolicy(0.6, 0.6, 0.6)  # rounding may flip a gate's decision
    masked, packed = both(model, make_images(6), lambda model, images: model(images, policy=policy))
    assert np.linalg.norm(packed["logits"] - masked["logits"]) < 0.05 * np.linalg.norm(masked["logits"])


def test_evaluate():
    model = make_model()
    model.compile(loss=ka.CrossEntropy())
    images, labels = make_images(10), np.arange(10) % 5
    found = []
    for execution in ("masked", "packed"):
        model.execution = execution
        found.append(model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True))
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=1e-4)


def test_training_stays_masked_and_learns():
    """Packed is a matter of evaluation: a training step is the same in either execution."""
    losses = []
    for execution in ("masked", "packed"):
        keras.utils.set_random_seed(0)
        model = make_model()
        model.execution = execution
        model.compile(keras.optimizers.SGD(0.1), ka.CrossEntropy(), budget=ka.BudgetLoss())
        losses.append(model.train_on_batch(make_images(4), np.arange(4)))
    assert losses[0] == pytest.approx(losses[1])


def test_details():
    """Logits of gates come with packed execution; the class token's attention is computed masked."""
    model, images = make_model(), make_images(3)
    for details in (("token_logits", "head_logits", "block_logits"), ("class_tokens",), ("class_attention",)):
        masked, packed = both(model, images, lambda model, images, details=details: model(images, details=details))
        for key in details:
            np.testing.assert_allclose(packed[key], masked[key], rtol=1e-4, atol=1e-4)


def test_wrong_execution():
    model = make_model(depth=2)
    with pytest.raises(ka.InputError, match="`execution` must be 'masked' or 'packed'"):
        model.execution = "fast"
    assert model.execution == "masked"


def test_symbolic_call():
    """A functional model over a packed one, as when images are scaled in front of it."""
    model = make_model(depth=2)
    model.execution = "packed"
    inputs = keras.Input((32, 32, 3))
    logits = keras.Model(inputs, model(keras.layers.Rescaling(2.0)(inputs))["logits"])
    images = make_images(3)
    model.execution = "masked"
    expected = model(images * 2.0)["logits"]
    np.testing.assert_allclose(logits.predict(images, verbose=0), ops.convert_to_numpy(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA stands in the way on TensorFlow alone")
def test_xla_falls_back_to_masked_and_says_so():
    model = make_model(depth=2)
    model.compile(jit_compile=True)
    images = make_images(3)
    masked = model.predict(images, verbose=0)
    model.execution = "packed"
    with pytest.warns(UserWarning, match="XLA on TensorFlow") as warnings:
        packed = model.predict(images, verbose=0)
    assert len([each for each in warnings if "XLA on" in str(each.message)]) == 1
    np.testing.assert_array_equal(packed["logits"], masked["logits"])
    model.predict(images, verbose=0)  # says it once: warnings are errors here


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="sizes are static on JAX alone")
def test_one_compilation_serves_many_policies():
    import jax

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **kwargs: compiled.append(event) if "backend_compile" in event else None
    )
    model = make_model(depth=1, gates=ka.GateConfig(first_gated_block=0))
    model.execution = "packed"
    rng = np.random.default_rng(0)
    usages, counts, seen = set(), [], []
    try:
        for _ in range(8):
            images = rng.normal(size=(4, 32, 32, 3), scale=3.0).astype("float32")
            outputs = model.predict_on_batch(images)
            seen.append((images, outputs["logits"]))
            usages.add(float(outputs["token_keep"].sum()))
            counts.append(len(compiled))
    finally:
        jax.monitoring.clear_event_listeners()
    assert len(usages) > 3
    assert counts[0] > 0
    assert counts[-1] == counts[0]
    model.execution = "masked"
    for images, logits in seen:
        np.testing.assert_allclose(logits, model.predict_on_batch(images)["logits"], rtol=1e-4, atol=1e-4)
