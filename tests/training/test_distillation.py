"""Distillation: the three terms against NumPy, their gradient, and a teacher that stays out of everything else."""

import zipfile

import keras
import numpy as np
import pytest
from gradients import gradients
from keras import ops

import keras_adavit as ka
from keras_adavit.layers.attention import class_token_attention
from keras_adavit.training.distillation import Teacher
from keras_adavit.weights.transfer import initialize_from

SIZES = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TERMS = {"logit_distillation_loss", "attention_distillation_loss", "token_distillation_loss"}


def make_model(gates=None, num_classes=5, dtype=None, **sizes):
    backbone = ka.AdaViTBackbone(**{**SIZES, **sizes}, gates=gates, dtype=dtype)
    return ka.AdaViTClassifier(backbone, num_classes, dtype=dtype)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 16, 16, 3)).astype("float32"), rng.integers(0, 5, 16)


def no_task(labels, logits):
    return 0 * ops.sum(logits, axis=-1)


def softmax(values):
    exponential = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


def test_terms_are_those_of_the_formulas():
    rng = np.random.default_rng(1)
    student, teacher = (
        {
            "logits": rng.normal(size=(4, 5)).astype("float32") * 4,
            "class_attention": softmax(rng.normal(size=(4, 2, 3, 7))).astype("float32"),
            "class_tokens": rng.normal(size=(4, 2, 6)).astype("float32"),
        }
        for _ in range(2)
    )
    student["head_keep"] = rng.integers(0, 2, (4, 2, 3)).astype("float32")
    student["block_keep"] = rng.integers(0, 2, (4, 2, 2)).astype("float32")
    logit = attention = token = 0.0
    for image in range(4):
        target, found = (softmax(each["logits"][image] / 3.0) for each in (teacher, student))
        logit -= (target * np.log(found)).sum() / 4
        for block in range(2):
            on = student["block_keep"][image, block]
            for head in range(3):
                distance = student["class_attention"] - teacher["class_attention"]
                distance = np.abs(distance[image, block, head]).sum()
                attention += on[0] * student["head_keep"][image, block, head] * distance / (4 * 3)
            difference = student["class_tokens"][image, block] - teacher["class_tokens"][image, block]
            token += on[1] * (difference**2).mean() / 4

    distillation = ka.DistillationLoss(2.0, 3.0, 4.0, temperature=3.0)
    terms = distillation(*({k: ops.convert_to_tensor(v) for k, v in each.items()} for each in (student, teacher)))
    np.testing.assert_allclose(terms["logit"], logit, rtol=1e-5)
    np.testing.assert_allclose(terms["attention"], attention, rtol=1e-5)
    np.testing.assert_allclose(terms["token"], token, rtol=1e-5)
    np.testing.assert_allclose(distillation.total(terms), 2 * logit + 3 * attention + 4 * token, rtol=1e-5)


def test_class_attention_is_the_class_tokens_row_over_kept_tokens():
    rng = np.random.default_rng(2)
    query, key = rng.normal(size=(2, 3, 4)).astype("float32"), rng.normal(size=(2, 3, 6, 4)).astype("float32")
    keep = np.float32([[1, 0, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0]])
    found = ops.convert_to_numpy(class_token_attention(*map(ops.convert_to_tensor, (query, key, keep))))
    for image in range(2):
        kept = keep[image] > 0
        for head in range(3):
            row = np.zeros(6)
            row[kept] = softmax(key[image, head, kept] @ query[image, head] / 2.0)
            np.testing.assert_allclose(found[image, head], row, atol=1e-6)


def test_a_student_like_its_teacher_is_at_distance_zero(data):
    images = ops.convert_to_tensor(data[0])
    teacher, student = make_model(), make_model(ka.GateConfig())
    initialize_from(student, teacher)
    distillation = ka.DistillationLoss()
    taught = Teacher(teacher)(images, distillation.details)
    outputs = student(images, details=distillation.details, policy=ka.OpenPolicy())
    terms = {name: float(ops.convert_to_numpy(term)) for name, term in distillation(outputs, taught).items()}
    soft = softmax(ops.convert_to_numpy(taught["logits"]) / 5.0)
    assert terms["attention"] < 1e-4
    assert terms["token"] < 1e-8
    assert terms["logit"] == pytest.approx(-(soft * np.log(soft)).sum(axis=-1).mean(), rel=1e-5)


def test_gradient_is_that_of_finite_differences(data):
    images, labels = (ops.convert_to_tensor(each[:4]) for each in data)
    teacher, student = make_model(), make_model()  # a dense student: nothing is decided, so that the loss is smooth
    rng = np.random.default_rng(3)
    for variable in [*student.trainable_variables, *teacher.trainable_variables]:
        variable.assign(variable + rng.normal(size=variable.shape) * 0.1)
    student.compile(loss=no_task, teacher=teacher, distillation=ka.DistillationLoss(1.0, 1.0, 1.0))
    loss, _, gradient = gradients(student, images, labels)
    assert loss > 0.1
    weights = {variable.path: ops.convert_to_numpy(variable) for variable in student.trainable_variables}
    for name in ("block_0/attention/qkv/kernel", "block_1/mlp/reduce/kernel", "class_token", "head/kernel"):
        (path,) = (path for path in weights if path.endswith(name))
        variable = next(variable for variable in student.trainable_variables if variable.path == path)
        direction = gradient[path] / np.linalg.norm(gradient[path])
        values = []
        for step in (0.03, -0.03):
            variable.assign(weights[path] + step * direction)
            values.append(gradients(student, images, labels)[0])
        variable.assign(weights[path])
        assert (values[0] - values[1]) / 0.06 == pytest.approx(np.linalg.norm(gradient[path]), rel=0.03), name


def test_masks_carry_no_gradient(data):
    images, labels = map(ops.convert_to_tensor, data)
    student = make_model(ka.GateConfig())
    student.compile(loss=no_task, teacher=make_model(), distillation=ka.DistillationLoss(0.0, 1.0, 0.0))
    _, _, gradient = gradients(student, images, labels)
    size = {path: np.abs(value).max() for path, value in gradient.items()}

    def of(name):
        return max(value for path, value in size.items() if name in path) if any(name in path for path in size) else 0

    assert of("block_1/attention/qkv") > 0
    assert of("block_1/head_gate") > 0  # through the queries and keys of the row itself
    assert of("block_1/block_gate") == 0  # only a mask here: nothing after the last row reads it


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_fit_logs_the_terms_and_leaves_the_teacher_alone(eager, data):
    teacher, student = make_model(drop_path=0.5), make_model(ka.GateConfig())
    initialize_from(student, teacher)
    own = len(student.weights), len(student.variables)
    before = teacher.get_weights()
    student.compile("adam", LOSS, budget=ka.BudgetLoss(macs_target=0.5), teacher=teacher, run_eagerly=eager)
    history = student.fit(*data, batch_size=8, epochs=2, verbose=0, validation_data=data).history
    assert set(history) >= TERMS
    assert not {f"val_{name}" for name in TERMS} & set(history)
    total = history["task_loss"][0] + 4 * history["macs_budget_loss"][0]
    parts = [history[name][0] for name in sorted(TERMS)]  # attention, logit, token
    assert history["loss"][0] == pytest.approx(total + 0.5 * parts[0] + 0.5 * parts[1] + 0.1 * parts[2], rel=1e-4)
    total = history["val_task_loss"][0] + 4 * history["val_macs_budget_loss"][0]
    assert history["val_loss"][0] == pytest.approx(total, rel=1e-4)
    assert (len(student.weights), len(student.variables)) == own
    for one, other in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(ops.convert_to_numpy(teacher(data[0])["logits"])).all()
    assert not TERMS & set(student.evaluate(*data, verbose=0, return_dict=True))


def test_terms_without_weight_are_neither_computed_nor_logged(data):
    student = make_model(ka.GateConfig())
    student.compile(
        "adam", LOSS, teacher=make_model(depth=3, width=12), distillation=ka.DistillationLoss(1.0, 0.0, 0.0)
    )
    assert "class_attention" not in student(data[0], training=True)
    assert TERMS & set(student.fit(*data, verbose=0).history) == {"logit_distillation_loss"}
    student.compile("adam", LOSS)
    assert not TERMS & set(student.fit(*data, verbose=0).history)


def test_teacher_infers_without_noise_and_without_counting(data):
    teacher = make_model(ka.GateConfig(), drop_path=0.5)
    for block in teacher.backbone.blocks:
        block.token_gate.bias.assign([0.4])
    one, other = (Teacher(teacher)(ops.convert_to_tensor(data[0]), ("class_tokens",)) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(ops.convert_to_numpy(one[name]), ops.convert_to_numpy(other[name]))
    assert int(teacher.step) == 0


def test_training_with_a_teacher_comes_closer_to_it(data):
    teacher, student = make_model(), make_model(ka.GateConfig())
    student.compile(keras.optimizers.Adam(3e-3), no_task, teacher=teacher)
    history = student.fit(*data, batch_size=16, epochs=25, verbose=0).history
    for name in TERMS:
        assert history[name][-1] < history[name][0], name


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "float32"])
def test_precisions_of_student_and_teacher_are_their_own(precision, data):
    other = {"mixed_bfloat16": "float32", "float32": "mixed_bfloat16"}[precision]
    student = make_model(ka.GateConfig(), dtype=precision)
    student.compile("adam", LOSS, teacher=make_model(dtype=other))
    history = student.fit(*data, verbose=0).history
    assert np.isfinite([history[name] for name in TERMS]).all()


def test_saved_model_has_no_teacher(data, tmp_path):
    teacher, student = make_model(), make_model(ka.GateConfig())
    student.compile("adam", LOSS, teacher=teacher)
    student.fit(*data, verbose=0)
    student.save(tmp_path / "taught.keras")
    untaught = make_model(ka.GateConfig())
    untaught.compile("adam", LOSS)
    untaught.fit(*data, verbose=0)
    untaught.save(tmp_path / "untaught.keras")
    sizes = [(tmp_path / name).stat().st_size for name in ("taught.keras", "untaught.keras")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    with zipfile.ZipFile(tmp_path / "taught.keras") as archive:
        assert b"teacher" not in archive.read("config.json")

    loaded = keras.saving.load_model(tmp_path / "taught.keras")
    assert loaded.teacher is None
    assert loaded.distillation is None
    loaded.compile("adam", LOSS, teacher=teacher)
    assert set(loaded.fit(*data, verbose=0).history) >= TERMS


def test_settings_round_trip():
    distillation = ka.DistillationLoss(attention_weight=0.0, temperature=2.0)
    config = keras.saving.serialize_keras_object(distillation)
    assert keras.saving.deserialize_keras_object(config) == distillation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"token_weight": -1.0},
            "`token_weight` must be 0 or a positive number up to 1e15. Received",
        ),
        ({"temperature": 0}, "`temperature` must be a positive number from 1e-15 to 1e15. Received: temperature=0"),
        ({"logit_weight": 0, "attention_weight": 0, "token_weight": 0}, "must be positive. Received: all zero"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ka.InputError) as error:
        ka.DistillationLoss(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {"depth": 3, "width": 12},
            {},
            "`teacher` must have the model's depth, width, or `attention_weight` and `token_weight` be 0. "
            "Received: depth=3 instead of 2, width=12 instead of 24",
        ),
        ({"num_heads": 2}, {}, "the model's num_heads, or `attention_weight` be 0. Received: num_heads=2 instead of 3"),
        ({"num_classes": 3}, {}, "num_classes, or `logit_weight` be 0. Received: num_classes=3 instead of 5"),
        (
            {"image_size": 20},
            {},
            "`teacher` must have the model's num_tokens, image_size. Received: num_tokens=26 instead of",
        ),
        (
            {"patch_size": 8},
            {},
            "the model's num_tokens, or `attention_weight` be 0. Received: num_tokens=5 instead of 17",
        ),
        ({"channels": 1}, {"attention_weight": 0.0}, "the model's channels. Received: channels=1 instead of 3"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_teachers_of_other_sizes_are_refused(change, settings, message):
    with pytest.raises(ka.InputError) as error:
        make_model(ka.GateConfig()).compile(
            "adam", LOSS, teacher=make_model(**change), distillation=ka.DistillationLoss(**settings)
        )
    assert message in str(error.value)


def test_teachers_that_are_none_are_refused():
    model = make_model()
    for teacher in ("deit", model, model.backbone):
        with pytest.raises(ka.InputError, match="`teacher` must be another `AdaViTClassifier` or None"):
            model.compile("adam", LOSS, teacher=teacher)
    with pytest.raises(ka.InputError, match="`distillation` must be a `DistillationLoss`"):
        model.compile("adam", LOSS, teacher=make_model(), distillation=0.5)
    with pytest.raises(ka.InputError, match="`distillation` needs a `teacher`"):
        model.compile("adam", LOSS, distillation=ka.DistillationLoss())
