"""Whatever a model is wrongly given, the answer is one sentence that names the argument."""

import itertools
import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_adavit as ka
from keras_adavit.evaluation import evaluate

SIZES = {"image_size": 8, "patch_size": 4, "width": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")
LABELS = np.arange(6) % 4
SHAPES = {"token_keep": (6, 2, 5), "head_keep": (6, 2, 3), "block_keep": (6, 2, 2)}
NAN = float("nan")


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_model(gates=ka.GateConfig(), loss=None, eager=True):  # noqa: B008, a frozen dataclass
    model = ka.AdaViTClassifier(ka.AdaViTBackbone(**SIZES, gates=gates), num_classes=4)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, run_eagerly=eager)  # few calls: compiling takes longer
    return model


def assert_refuses(call, *arguments):
    """`call` ends in one sentence that names one of the arguments, none for any."""
    with pytest.raises(ka.InputError) as error:
        call()
    message = str(error.value)
    assert re.search("`(" + ("|".join(map(re.escape, arguments)) or r"[\w\[\]]+") + ")`", message), message
    assert "Received: " in message
    assert "\n" not in message
    assert len(message) < 600


def batches(images=IMAGES, labels=LABELS):
    """A PyDataset of one batch."""

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return images, labels

    return Batches()


def tf_data(*parts, batch=3):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(batch)


def generator(*batches):
    yield from batches


WRONG_IMAGES = {
    "none": None,
    "string": "cat.png",
    "number": 3,
    "list": [[1.0, 2.0]],
    "list of arrays": [IMAGES],
    "dict": {"images": IMAGES},
    "rank 3": IMAGES[0],
    "rank 5": IMAGES[None],
    "scalar": np.float32(1),
    "size": IMAGES[:, :4],
    "channels": IMAGES[..., :1],
    "channels first": IMAGES.transpose(0, 3, 1, 2),
    "uint8": IMAGES.astype("uint8"),
    "int64": IMAGES.astype("int64"),
    "bool": IMAGES > 0,
    "complex": IMAGES.astype("complex64"),
    "strings": IMAGES.astype(str),
    "objects": IMAGES.astype(object),
    "no channels": np.zeros((0, 8, 8, 0), "float32"),
}
WRONG_LABELS = {
    "none": None,
    "string": "cat",
    "list": LABELS.tolist(),
    "minus one": LABELS - 1,
    "too large": LABELS + 1,
    "fraction": LABELS + 0.5,
    "nan": np.where(LABELS == 1, np.nan, LABELS),
    "strings": LABELS.astype(str),
    "complex": LABELS.astype("complex64"),
    "scalar": np.int64(1),
    "wrong classes": np.eye(3)[LABELS % 3],
    "above one": 2 * np.eye(4)[LABELS],
    "nan in one-hot": np.full((6, 4), np.nan),
    "rank 3": np.zeros((6, 4, 1)),
    "fewer": LABELS[:5],
    "tensor": ops.convert_to_tensor(LABELS - 1),
}


@pytest.mark.parametrize("kind", WRONG_IMAGES)
def test_wrong_images(kind, model):
    wrong = WRONG_IMAGES[kind]
    assert_refuses(lambda: model(wrong), "images")
    assert_refuses(lambda: model.backbone(wrong), "images")
    assert_refuses(lambda: model.predict(wrong, verbose=0), "x")
    assert_refuses(lambda: model.predict_on_batch(wrong), "x")
    assert_refuses(lambda: model.fit(wrong, LABELS, verbose=0), "x", "y")
    assert_refuses(lambda: model.fit(IMAGES, LABELS, validation_data=(wrong, LABELS), verbose=0), "validation_data[0]")
    assert_refuses(lambda: model.evaluate(wrong, LABELS, verbose=0), "x")
    assert_refuses(lambda: model.train_on_batch(wrong, LABELS), "x")
    assert_refuses(lambda: model.test_on_batch(wrong, LABELS), "x")
    assert_refuses(lambda: evaluate(model, [(wrong, LABELS)]), "dataset")
    if kind != "list of arrays":  # that are batches
        assert_refuses(lambda: ka.calibrate(model, wrong, 0.5), "dataset")
        assert_refuses(lambda: ka.calibrate(model, [wrong], 0.5), "dataset")


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_wrong_labels(kind, model):
    wrong = WRONG_LABELS[kind]
    assert_refuses(lambda: model.fit(IMAGES, wrong, verbose=0), "y")
    assert_refuses(lambda: model.evaluate(IMAGES, wrong, verbose=0), "y")
    assert_refuses(lambda: model.train_on_batch(IMAGES, wrong), "y")
    assert_refuses(lambda: model.test_on_batch(IMAGES, wrong), "y")
    assert_refuses(lambda: model.fit(IMAGES, LABELS, validation_data=(IMAGES, wrong), verbose=0), "validation_data[1]")
    assert_refuses(lambda: evaluate(model, [(IMAGES, wrong)]), "dataset")


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_data_sets_are_checked_before_or_at_their_first_batch(method):
    model = make_model(eager=False)

    def run(*arguments):
        settings = {"shuffle": False, "steps_per_epoch": 1} if method == "fit" else {"steps": 1}
        return lambda: getattr(model, method)(*arguments, verbose=0, **settings)

    small, strings = IMAGES[:, :4], LABELS.astype(str)
    assert_refuses(run(tf_data(small, LABELS)), "x")
    assert_refuses(run(tf_data(IMAGES)), "x")
    assert_refuses(run(tf_data(IMAGES, LABELS).unbatch()), "x")
    assert_refuses(run(tf_data(IMAGES, strings)), "x")
    assert_refuses(run(tf_data(IMAGES, LABELS).take(0)), "x")
    assert_refuses(run(tf_data(IMAGES, LABELS), LABELS), "y")
    assert_refuses(run(batches(small)), "images")
    assert_refuses(run(generator((small, LABELS), (small, LABELS))), "images")
    assert_refuses(run(batches(labels=np.zeros((6, 3, 2)))), "labels")
    assert_refuses(run(iter([(IMAGES, LABELS)])), "x")
    run(generator((IMAGES, LABELS), (IMAGES, LABELS)))()


@pytest.mark.parametrize("eager", [True, False])
def test_a_refused_first_batch_leaves_the_model_as_it_was(eager):
    model = make_model(eager=eager)
    before = model.get_weights()
    for run in (model.fit, model.evaluate):
        for _ in range(2):  # the first time Keras builds the metrics with it
            assert_refuses(lambda: run(batches(IMAGES[:, :4]), verbose=0), "images")  # noqa: B023
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    model.fit(batches(), verbose=0)
    assert int(model.optimizer.iterations) == 1


def test_data_sets_that_cannot_be_read_are_refused(model):
    for dataset in (None, 3, "digits", [IMAGES], [None], [3], [(IMAGES,)], [(IMAGES, LABELS, LABELS)], [], [[]]):
        assert_refuses(lambda: evaluate(model, dataset), "dataset")  # noqa: B023, it is called here
    one_hot = np.eye(4)[LABELS]
    for labels in (one_hot, LABELS[:, None], LABELS == 1, LABELS.astype("float32")):
        assert_refuses(lambda: evaluate(model, [(IMAGES, labels)]), "dataset")  # noqa: B023
    assert_refuses(lambda: evaluate(model, [(IMAGES[:0], LABELS[:0])]), "dataset")
    for dataset in (None, 3, "digits", [None], [3], [()], [], IMAGES[:0], [IMAGES[:0]], iter([IMAGES])):
        assert_refuses(lambda: ka.calibrate(model, dataset, 0.5), "dataset")  # noqa: B023


def test_torch_loaders(model):
    torch = pytest.importorskip("torch")
    data = torch.utils.data
    for images, good in ((IMAGES, True), (IMAGES.transpose(0, 3, 1, 2).copy(), False)):
        pairs = data.TensorDataset(torch.from_numpy(images), torch.from_numpy(LABELS))
        loader = data.DataLoader(pairs, batch_size=3)
        if good:
            model.fit(loader, verbose=0, shuffle=False)
            assert evaluate(model, loader).images == 6
        else:
            assert_refuses(lambda: model.fit(loader, verbose=0, shuffle=False), "images")  # noqa: B023
            assert_refuses(lambda: evaluate(model, loader), "dataset")  # noqa: B023


@pytest.mark.parametrize(
    "labels", [LABELS[:, None], LABELS.astype("float32"), LABELS.astype("uint8"), ops.convert_to_tensor(LABELS)]
)
def test_labels_in_any_form_train(labels):
    assert np.isfinite(make_model().fit(IMAGES, labels, verbose=0).history["loss"]).all()


def test_mixed_and_ignored_labels_train():
    model = make_model(loss=ka.CrossEntropy())
    for mixed in (np.eye(4)[LABELS], np.full((6, 4), 0.25)):
        assert np.isfinite(model.fit(IMAGES, mixed, verbose=0).history["loss"]).all()
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    model = make_model(loss=ignoring)
    model.fit(IMAGES, LABELS - 1, verbose=0)
    assert_refuses(lambda: model.fit(IMAGES, LABELS - 2, verbose=0), "y")


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_floats_of_any_width_are_images(dtype):
    model = make_model(gates=None)  # rounding turns decisions
    images = ops.cast(ops.convert_to_tensor(IMAGES), dtype) if dtype == "bfloat16" else IMAGES.astype(dtype)
    expected = ops.convert_to_numpy(model(IMAGES)["logits"])
    np.testing.assert_allclose(ops.convert_to_numpy(model(images)["logits"]), expected, atol=0.05)
    if dtype != "bfloat16":
        np.testing.assert_allclose(model.predict(images, verbose=0)["logits"], expected, atol=0.05)


def test_images_that_are_not_finite_give_logits_that_are_not(model):
    assert np.isnan(model.predict(np.full_like(IMAGES, NAN), verbose=0)["logits"]).all()


def test_no_images_give_outputs_of_none(model):
    expected = {"logits": (0, 4), "macs": (0,), **{key: (0, *shape[1:]) for key, shape in SHAPES.items()}}
    called = model(IMAGES[:0])
    found = [
        {key: ops.convert_to_numpy(value) for key, value in called.items()},
        model.predict_on_batch(IMAGES[:0]),
        model.predict(IMAGES[:0], verbose=0),
        model.predict(tf_data(IMAGES, LABELS).take(0), verbose=0),
    ]
    for outputs in found:
        assert {key: value.shape for key, value in outputs.items()} == expected
        assert {value.dtype.name for value in outputs.values()} == {"float32"}
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        assert_refuses(lambda: call(IMAGES[:0], LABELS[:0]), "x")  # noqa: B023


def ones(**changed):
    keeps = {key: np.ones(shape, "float32") for key, shape in SHAPES.items()}
    for key, value in changed.items():
        keeps[key][-1, -1, -1] = value
    return keeps


@pytest.mark.parametrize("key", SHAPES)
@pytest.mark.parametrize("value", [0.5, 7, -1, NAN, float("inf")])
def test_policies_are_exactly_zero_or_one(key, value, model):
    policy = ones(**{key: value})
    assert_refuses(lambda: model(IMAGES, policy=policy), key)
    assert_refuses(lambda: model(IMAGES, policy={key: policy[key].tolist()}), key)
    assert_refuses(lambda: model(IMAGES, policy={key: ops.convert_to_tensor(policy[key])}), key)


@pytest.mark.parametrize(
    "policy",
    [3, "open", {}, [], ka.RandomPolicy, {"head_keep": None}, {"head_keep": "all"}, {"head_keep": [[1], [1, 0]]}],
    ids=str,
)
def test_other_policies_are_refused(policy, model):
    assert_refuses(lambda: model(IMAGES, policy=policy), "policy")
    assert_refuses(lambda: evaluate(model, [(IMAGES, LABELS)], policy=policy), "policy")


def test_a_policy_of_code_that_is_compiled_is_not_read(model):
    inputs = {key: keras.Input(shape[1:], name=key) for key, shape in SHAPES.items()}
    images = keras.Input((8, 8, 3), name="images")
    functional = keras.Model({"images": images, **inputs}, model(images, policy=inputs)["macs"])
    assert functional.predict({"images": IMAGES, **ones()}, verbose=0).shape == (6,)


def test_the_class_token_stays_used_whatever_is_given(model):
    tokens = np.ones(SHAPES["token_keep"], "float32")
    without = tokens.copy()
    without[:, :, 0] = 0
    found = []
    for execution, keep in itertools.product(("masked", "packed"), (tokens, without)):
        model.execution = execution
        outputs = model(IMAGES, policy={"token_keep": keep})
        found.append({key: ops.convert_to_numpy(value) for key, value in outputs.items()})
    model.execution = "masked"
    for outputs in found:
        assert (outputs["token_keep"] == 1).all()
        np.testing.assert_allclose(outputs["logits"], found[0]["logits"], atol=1e-5)
        np.testing.assert_array_equal(outputs["macs"], found[0]["macs"])
