"""The switch `execution`: what of a model it changes, where it gives way, and what it compiles."""

import keras
import numpy as np
import pytest
from gated import XLA_CHOICE, both, make_images, make_model
from keras import ops

import keras_adavit as ka


@pytest.mark.parametrize("xla", ["auto", pytest.param(True, marks=[XLA_CHOICE, pytest.mark.slow])])
def test_evaluate(xla):
    model = make_model(depth=2)
    model.compile(loss=ka.CrossEntropy(), jit_compile=xla)
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


@pytest.mark.slow
@XLA_CHOICE
def test_xla_packs():
    """Batches of several sizes, which Keras traces as one, and blocks that are gated differently."""
    import tensorflow as tf

    model = make_model(ka.GateConfig(first_token_gated_block=0, first_gated_block=1))
    model.compile(jit_compile=True)
    images = make_images(5)
    masked, packed = both(model, images, lambda model, images: model.predict(images, batch_size=4, verbose=0))
    assert masked["macs"].std() > 0
    for key, value in masked.items():
        np.testing.assert_allclose(packed[key], value, rtol=1e-4, atol=1e-4)

    def computed():
        """The text of what XLA compiles."""
        run = tf.function(lambda images: model(images, training=False)["logits"], jit_compile=True)
        return run.experimental_get_compiler_ir(tf.constant(images))(stage="hlo")

    assert "conditional" in computed()
    model.execution = "masked"
    assert "conditional" not in computed()


@pytest.mark.slow
@XLA_CHOICE
def test_whoever_chooses_xla():
    """A function of one's own, with a gradient; and a model around this one, which is compiled otherwise."""
    import tensorflow as tf

    model, images = make_model(depth=2), make_images(3)
    model.compile(jit_compile=False)

    def logits_and_gradient(images, execution):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = model(images, execution=execution)["logits"]
            total = tf.reduce_sum(logits**2)
        return logits, tape.gradient(total, images)

    expected = logits_and_gradient(tf.constant(images), "masked")
    found = tf.function(logits_and_gradient, autograph=False, jit_compile=True)(tf.constant(images), "packed")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    model.execution = "packed"
    inputs = keras.Input((32, 32, 3))
    around = keras.Model(inputs, model(inputs)["logits"])
    around.compile(jit_compile=True)
    np.testing.assert_allclose(around.predict(images, verbose=0), expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone is asked what it compiled")
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
