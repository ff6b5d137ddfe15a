"""Every argument of the public API with values that make no sense: what is refused is an `InputError`, nothing else."""

import contextlib
import random

import keras
import numpy as np
import pytest
from refusals import IMAGES, LABELS, SIZES, assert_refuses, make_model

import keras_adavit as ka
from keras_adavit.evaluation.evaluate import evaluate
from keras_adavit.weights.transfer import initialize_from

SHARE = 200  # of some 1,500 cases
NAN, INF, HUGE = float("nan"), float("inf"), 10**30
JUNK = [None, "3", "", b"3", True, False, -1, 0, 0.5, 1.5, NAN, INF, -INF, HUGE, 10**400, 1e308, 1j]
JUNK += [[], [3], (), {}, {"a": 1}, set(), np.zeros(3), np.array("a"), np.float32(NAN), object(), print, keras]
# Arguments of `AdaViTBackbone`, and the junk that each takes.
BACKBONE = {
    **dict.fromkeys(("image_size", "patch_size", "width", "depth", "num_heads", "channels", "token_width"), ()),
    **dict.fromkeys(("positions", "stem"), ()),
    **dict.fromkeys(("drop_path", "patch_dropout"), (0, 0.5)),
    "mlp_ratio": (0.5, 1.5),
    "gates": (None, {}),
    "qkv_bias": (True, False),
    "layer_norm_epsilon": (0.5, 1.5, HUGE, 1e308),
}

CLASSIFIER = {"backbone": (), "num_classes": (), "class_names": (None,), "preprocessing": (None, {})}


def calls():
    """Yields each argument's name, a function that gives the argument a value, and the junk that it takes."""
    model, other = make_model(), make_model()
    backbone = model.backbone

    def vary(call, names, **right):
        """The same for some arguments of one function, the others as `right`."""
        return [(name, lambda value, name=name: call(**{**right, name: value}), takes) for name, takes in names.items()]

    yield from vary(ka.AdaViTBackbone, BACKBONE, **SIZES)
    yield from vary(ka.AdaViTClassifier, CLASSIFIER, backbone=backbone, num_classes=4)
    names = {"name": (), "num_classes": (), "image_size": (), "weights": (None,)}
    yield from vary(ka.AdaViTClassifier.from_preset, names, name="ada_t2t_vit_7", image_size=32)
    names = {
        "budget": (None,),
        "temperature": (None, 0.5, 1.5, HUGE, 1e308),
        "teacher": (None,),
        "training_policy": (None,),
    }
    yield from vary(other.compile, names)
    yield from vary(other.compile, {"distillation": (None,)}, teacher=model)
    yield "execution", lambda value: setattr(other, "execution", value), ()
    names = {"images": (), "details": (None, True, False, [], ()), "policy": (None,)}
    yield from vary(model, names, images=IMAGES)
    yield "head_keep", lambda value: model(IMAGES, policy={"head_keep": value}), ()
    yield from vary(model.predict, {"x": (), "batch_size": (None,), "steps": (None,)}, x=IMAGES, verbose=0)
    yield from vary(model.predict_on_batch, {"x": ()})
    labelled = {"x": (), "y": (), "sample_weight": (None,)}
    for method in (model.train_on_batch, model.test_on_batch):
        yield from vary(method, labelled, x=IMAGES, y=LABELS)
    names = {**labelled, "batch_size": (None,), "steps": (None,)}
    yield from vary(model.evaluate, names, x=IMAGES, y=LABELS, verbose=0)
    names = {**labelled, "batch_size": (None,), "steps_per_epoch": (None,), "validation_batch_size": (None,)}
    names |= {"epochs": (0,), "validation_split": (None, 0, 0.5), "validation_data": (None,)}
    yield from vary(model.fit, names, x=IMAGES, y=LABELS, verbose=0)
    names = {"model": (), "dataset": (), "macs": (0.5, 1.5, HUGE, 1e308), "gates": ()}
    yield from vary(ka.calibrate, names, model=other, dataset=IMAGES, macs=0.5)
    yield from vary(ka.calibrate, {"batch_size": ()}, model=other, dataset=IMAGES, milliseconds=1e-9)
    names = {"model": (), "dataset": (), "policy": (None,), "observe": (None, print)}
    yield from vary(evaluate, names, model=model, dataset=[(IMAGES, LABELS)])
    yield from vary(initialize_from, {"model": (), "source": ()}, model=model, source=model)


def accept(call, value):
    """A value that makes sense, though it may not fit this model."""
    with contextlib.suppress(ka.InputError):
        call(value)


def test_junk_is_refused_in_one_sentence(exhaustive):
    cases = [(*each, junk) for each in calls() for junk in JUNK]
    if not exhaustive:
        cases = random.Random(0).sample(cases, SHARE)
    wrong = []
    for name, call, right, junk in cases:
        try:
            if any(junk is value or (type(junk) is type(value) and junk == value) for value in right):
                accept(call, junk)
            else:
                assert_refuses(lambda: call(junk))  # noqa: B023, it is called here
        except (Exception, pytest.fail.Exception) as error:
            wrong.append(f"{name}={junk!r:.60}: {type(error).__name__}: {error!s:.200}")
    assert wrong == [], f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(wrong)
