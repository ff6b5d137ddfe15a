"""Top-k and merging in models, against a plain NumPy transformer that computes image by image what is left."""

import math

import keras
import numpy as np
import pytest
from gated import both, make_images, make_model
from keras import ops

import keras_adavit as ka
from keras_adavit import macs
from keras_adavit.evaluation import evaluate as evaluation
from keras_adavit.evaluation.predict import predict

DEPTH, TOKENS, WIDTH, HEADS = 4, 17, 24, 3
POLICIES = {
    "top-k": ka.TopKPolicy(tokens=0.5),
    "top-k of two blocks": ka.TopKPolicy(tokens=0.3, blocks=(1, 2)),
    "merging": ka.MergePolicy(merged=3),
    "merging of half": ka.MergePolicy(merged=100),
}
KEEPS = {
    "top-k": [17, 9, 5, 3],
    "top-k of two blocks": [17, 6, 3, 3],
    "merging": [17, 14, 11, 8],
    "merging of half": [17, 9, 5, 3],
}


def make(gates=None, **options):
    """A model of random weights in every variable, so that nothing agrees because it is zero."""
    sizes = {"image_size": 32, "patch_size": 8, "width": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 2.0}
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**sizes, gates=gates, **options), 5)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(ops.convert_to_numpy(weight) + rng.normal(size=weight.shape, scale=0.2))
    return model


def arrays(outputs):
    return {name: ops.convert_to_numpy(value) for name, value in outputs.items()}


def numbers(layer):
    return [ops.convert_to_numpy(weight).astype("float64") for weight in layer.trainable_weights]


def normalize(layer, values):
    gamma, beta = numbers(layer)
    centered = values - values.mean(axis=-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + layer.epsilon) * gamma + beta


def run_block(block, tokens, sizes):
    """One image's tokens (K, D) through a dense block; also the class token's attention (K,) and the keys (K, d)."""
    kernel, bias = numbers(block.attention.qkv)
    qkv = (normalize(block.norm1, tokens) @ kernel + bias).reshape(len(tokens), 3, HEADS, -1)
    query, key, value = qkv.transpose(1, 2, 0, 3)
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(WIDTH // HEADS) + np.log(sizes)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    kernel, bias = numbers(block.attention.projection)
    tokens = tokens + (weights @ value).transpose(1, 0, 2).reshape(len(tokens), WIDTH) @ kernel + bias
    kernel, bias = numbers(block.mlp.expand)
    hidden = normalize(block.norm2, tokens) @ kernel + bias
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    kernel, bias = numbers(block.mlp.reduce)
    return tokens + hidden @ kernel + bias, weights[:, 0].mean(axis=0), key.mean(axis=0)


def merge_one(tokens, sizes, keys, merged):
    """Merges tokens of one image: tokens, sizes, and the positions of those that are left."""
    keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    targets = list(range(1, len(keys), 2))
    edges = []
    for source in range(2, len(keys), 2):
        likeness = keys[targets] @ keys[source]
        edges.append((likeness.max(), source, targets[likeness.argmax()]))
    edges = sorted(edges, reverse=True)[:merged]
    tokens, sizes = tokens.copy(), sizes.copy()
    for target in {target for _, _, target in edges}:
        group = [target, *(source for _, source, into in edges if into == target)]
        tokens[target] = np.average(tokens[group], axis=0, weights=sizes[group])
        sizes[target] = sizes[group].sum()
    return tokens, sizes, np.setdiff1d(np.arange(len(tokens)), [source for _, source, _ in edges])


def reference(model, image, policy):
    """Tokens (T, D) before the final normalisation, logits (K,) and token_keep (L, T) of one image."""
    backbone = model.backbone
    patches = ops.convert_to_numpy(backbone.stem(image[None]))[0].astype("float64")
    tokens = np.concatenate([ops.convert_to_numpy(backbone.class_token)[0], patches])
    tokens = tokens + ops.convert_to_numpy(backbone.position)[0]
    left, sizes, keep = np.arange(TOKENS), np.ones(TOKENS), np.zeros((DEPTH, TOKENS))
    for index, block in enumerate(backbone.blocks):
        keep[index, left] = 1
        tokens[left], attention, keys = run_block(block, tokens[left], sizes)
        if index == DEPTH - 1:
            break
        if isinstance(policy, ka.MergePolicy):
            merged = min(policy.merged, (len(left) - 1) // 2)
            tokens[left], sizes, stays = merge_one(tokens[left], sizes, keys, merged)
            left, sizes = left[stays], sizes[stays]
        elif index + 1 in (policy.blocks or (1, 2, 3)):
            count = math.ceil(policy.tokens * (len(left) - 1))
            best = 1 + np.argsort(-attention[1:])[:count]
            left, sizes = left[[0, *sorted(best)]], np.ones(count + 1)
    final = normalize(backbone.norm, tokens)
    kernel, bias = numbers(model.head)
    return final, final[0] @ kernel + bias, keep


@pytest.mark.parametrize("gates", [None, ka.GateConfig(), ka.GateConfig(heads="partial", gate_mlp_tokens=False)])
@pytest.mark.parametrize("name", POLICIES)
def test_models_do_what_a_plain_transformer_does_with_what_is_left(name, gates):
    """Gates, where a model has some, are not asked."""
    model, images, policy = make(gates), make_images(5), POLICIES[name]
    masked, packed = both(model, images, lambda model, images: model(images, policy=policy))
    tokens = ops.convert_to_numpy(model.backbone(images, policy=policy)["tokens"])
    expected = [reference(model, image, policy) for image in images]
    for row, (final, logits, keep) in enumerate(expected):
        np.testing.assert_array_equal(masked["token_keep"][row], keep)
        np.testing.assert_allclose(masked["logits"][row], logits, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(tokens[row], final, rtol=1e-3, atol=1e-3)
    different = len({keep.tobytes() for _, _, keep in expected})
    assert different == (1 if name == "merging of half" else len(images))
    np.testing.assert_array_equal(masked["token_keep"].sum(axis=2), [KEEPS[name]] * 5)
    assert (masked["head_keep"] == 1).all()
    assert (masked["block_keep"] == 1).all()
    for key, value in masked.items():
        np.testing.assert_array_equal(packed[key], value)


@pytest.mark.parametrize("name", POLICIES)
def test_macs_are_those_of_dense_blocks_of_fewer_tokens(name):
    model, counts = make(), KEEPS[name]
    expected = 16 * 8 * 8 * 3 * WIDTH + macs.classifier_macs(TOKENS, WIDTH, 5)
    for count in counts:
        expected += 4 * count * WIDTH**2 + 2 * count**2 * WIDTH + 2 * count * WIDTH * 48 + 2 * 5 * count * WIDTH
    if name.startswith("merging"):
        expected += sum((count - 1) // 2 * (count // 2) * WIDTH // HEADS for count in counts[:-1])
    outputs = arrays(model(make_images(3), policy=POLICIES[name]))
    np.testing.assert_array_equal(outputs["macs"], np.float32([expected] * 3))
    assert model.macs(POLICIES[name]) == expected < model.dense_macs
    assert make(ka.GateConfig()).macs(POLICIES[name]) == expected  # gates do not run


@pytest.mark.parametrize("policy", [ka.TopKPolicy(tokens=1.0), ka.MergePolicy(merged=0)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_nothing_left_out_is_the_dense_model_exactly(policy, dtype):
    model, images = make(dtype=dtype), make_images(4)
    dense, found = arrays(model(images)), arrays(model(images, policy=policy))
    assert dense.keys() == found.keys()
    for key, value in dense.items():
        np.testing.assert_array_equal(found[key], value)
        assert found[key].dtype == value.dtype


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_is_close(policy, dtype):
    images, low, full = make_images(16), make(dtype=dtype), make()
    low.set_weights(full.get_weights())
    expected, found = (arrays(model(images, policy=policy)) for model in (full, low))
    same = (expected["token_keep"] == found["token_keep"]).all(axis=(1, 2))  # rounding may turn a decision
    assert same.mean() > 0.2
    difference = np.linalg.norm(expected["logits"][same] - found["logits"][same])
    assert difference < 0.1 * np.linalg.norm(expected["logits"][same])
    np.testing.assert_array_equal(expected["macs"], found["macs"])


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_details(policy):
    model, images = make(), make_images(3)
    model.execution = "packed"
    outputs = arrays(model(images, policy=policy, details=True))
    attention = outputs["class_attention"]
    assert attention.shape == (3, DEPTH, HEADS, TOKENS)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(attention > 0, np.repeat(outputs["token_keep"][:, :, None] > 0, HEADS, axis=2))
    assert outputs["class_tokens"].shape == (3, DEPTH, WIDTH)
    for key in ("token_logits", "head_logits", "block_logits"):
        assert (outputs[key] == 0).all()
    assert outputs["token_logits"].shape == (3, DEPTH, TOKENS - 1)
    dense = arrays(model(images, details=True))
    np.testing.assert_allclose(attention[:, 0], dense["class_attention"][:, 0], rtol=1e-4, atol=1e-6)


def test_top_k_follows_the_attention_that_the_details_show():
    outputs = arrays(make()(make_images(6), policy=ka.TopKPolicy(tokens=0.5, blocks=(2,)), details=True))
    scores = outputs["class_attention"][:, 1].mean(axis=1)[:, 1:]
    threshold = np.sort(scores, axis=1)[:, -8, None]
    np.testing.assert_array_equal(outputs["token_keep"][:, 2, 1:], scores >= threshold)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("batch", [1, 4])
def test_compiled_and_eager_agree(policy, batch):
    model, images = make(), make_images(batch)

    def forward(images):
        return model(images, policy=policy)

    compiled = forward
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(forward, input_signature=[tf.TensorSpec((None, 32, 32, 3))], autograph=False)
    elif keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(forward)
    eager, found = arrays(forward(images)), arrays(compiled(ops.convert_to_tensor(images)))
    np.testing.assert_allclose(found["logits"], eager["logits"], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found["token_keep"], eager["token_keep"])
    np.testing.assert_array_equal(found["macs"], eager["macs"])


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_broken_image_leaves_its_neighbours_as_they_are(policy):
    model, images = make(), make_images(4)
    broken = images.copy()
    broken[1, 3, 4, 1] = np.nan
    expected, found = (arrays(model(batch, policy=policy)) for batch in (images, broken))
    assert np.isnan(found["logits"][1]).all()
    others = [0, 2, 3]
    np.testing.assert_allclose(found["logits"][others], expected["logits"][others], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["token_keep"][others], expected["token_keep"][others])
    assert (found["token_keep"].sum(axis=2) == expected["token_keep"].sum(axis=2)).all()


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_an_empty_batch(policy):
    model = make()
    empty, full = (arrays(model(make_images(count), policy=policy)) for count in (0, 2))
    assert {key: value.shape for key, value in empty.items()} == {
        key: (0, *value.shape[1:]) for key, value in full.items()
    }


@pytest.mark.parametrize("gates", [None, ka.GateConfig()])
@pytest.mark.parametrize("name", POLICIES)
def test_evaluation_and_prediction(name, gates):
    model, images, labels = make(gates), make_images(7), np.arange(7) % 5
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    seen = []
    for execution in ("masked", "packed"):
        model.execution = execution
        seen.append(evaluation.evaluate(model, batches, POLICIES[name]))
    found, packed = seen
    assert found == packed
    outputs = arrays(model(images, policy=POLICIES[name]))
    assert found.top1 == pytest.approx((outputs["logits"].argmax(axis=1) == labels).mean())
    np.testing.assert_allclose(found.token_usage, np.array(KEEPS[name]) / TOKENS, rtol=1e-6)
    assert found.macs_mean == pytest.approx(model.macs(POLICIES[name]), rel=1e-6)
    assert found.macs_std == 0
    assert found.ink_keep == pytest.approx((np.mean(KEEPS[name]) - 1) / 16)
    first, *_ = predict(model, [images], POLICIES[name])
    assert first.labels[0] == outputs["logits"][0].argmax()
    assert first.macs == pytest.approx(model.macs(POLICIES[name]), rel=1e-6)


def test_with_a_tokens_to_token_stem():
    model = make_model(stem="t2t_transformer", depth=3)
    for policy, keeps in ((ka.TopKPolicy(0.5), [5, 3, 2]), (ka.MergePolicy(1), [5, 4, 3])):
        outputs = arrays(model(make_images(3), policy=policy))
        np.testing.assert_array_equal(outputs["token_keep"].sum(axis=2), [keeps] * 3)
        np.testing.assert_allclose(outputs["macs"], model.macs(policy), rtol=1e-6)


def test_blocks_that_a_model_has_not():
    model = make()
    for call in (model, model.backbone):
        with pytest.raises(ka.InputError, match=r"`blocks` must be below the depth of the model, 4. Received"):
            call(make_images(1), policy=ka.TopKPolicy(blocks=(4,)))
    with pytest.raises(ka.InputError, match="`blocks` must be below"):
        evaluation.evaluate(model, [(make_images(1), np.zeros(1, "int32"))], ka.TopKPolicy(blocks=(9,)))
