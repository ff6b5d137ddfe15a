"""Every field of every settings class refuses what it cannot mean, in one sentence that names it."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_adavit as ka
from keras_adavit import experiments as recipe
from keras_adavit.commands import convert, evaluate, export

CLASSES = {name: getattr(recipe, name) for name in recipe.__all__} | {"OpenPolicy": ka.OpenPolicy}
CLASSES |= {cls.__name__: cls for cls in (ka.Preprocessing, ka.TopKPolicy, ka.MergePolicy)}
CLASSES |= {module.__name__.rpartition(".")[2]: module.Arguments for module in (convert, evaluate, export)}
REQUIRED = {
    "Recipe": {"name": "run", "data": recipe.Digits()},
    "convert": {"checkpoint": Path("a.pth"), "output": Path("b.keras"), "preset": "c"},
    "evaluate": {"model": Path("a.keras")},
    "export": {"model": Path("a.keras"), "out": Path("b")},
}
WRONG = [math.nan, math.inf, -math.inf, -1, 10**30, 1j, object(), [], {}, b"bytes", ("a", "b"), np.nan, int]
JUNK = [
    *WRONG,
    None,
    True,
    0,
    1,
    1.5,
    2**31,
    2**63,
    "",
    "no",
    "../../x",
    "x" * 5000,
    "a\0b",
    "\udcff",
    (0.5, 0.4),
    [1, 2],
]
FIELDS = [(name, field.name) for name, cls in CLASSES.items() for field in dataclasses.fields(cls)]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_junk_is_refused_or_kept_as_it_is(name, field):
    """What is accepted is finite and survives as it was given; the rest is an `InputError` about the field."""
    for value in JUNK:
        try:
            made = CLASSES[name](**REQUIRED.get(name, {}) | {field: value})
        except ka.InputError as error:
            text = str(error)
            assert "Received" in text
            assert "\n" not in text
            assert len(text) < 1000
        else:
            kept = getattr(made, field)
            assert kept == value or list(kept) == list(value)
            assert not (isinstance(value, float) and not math.isfinite(value))


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_what_no_field_can_mean_is_always_refused(name, field):
    for value in WRONG[:3] + WRONG[5:7] + WRONG[9:11]:
        with pytest.raises(ka.InputError, match=f"`{field}` must be"):
            CLASSES[name](**REQUIRED.get(name, {}) | {field: value})


def test_defaults_are_valid():
    """Defaults are not checked when they are used; given as arguments they are."""
    for name, cls in CLASSES.items():
        made = cls(**REQUIRED.get(name, {}))
        fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(cls)}
        assert cls(**fields) == made


ROUND_TRIPS = [ka.GateConfig, ka.BudgetLoss, ka.DistillationLoss, ka.Preprocessing, ka.TopKPolicy, ka.MergePolicy]


@pytest.mark.parametrize("cls", ROUND_TRIPS)
def test_config_round_trip_through_json(cls):
    made = cls()
    assert cls.from_config(json.loads(json.dumps(made.get_config()))) == made


def test_schedules_are_targets():
    schedule = keras.optimizers.schedules.CosineDecay(1.0, 10)
    for field in ("token_target", "macs_target"):
        loss = ka.BudgetLoss(**{field: schedule})
        assert getattr(loss, field) is schedule
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
        assert getattr(again, field).get_config() == schedule.get_config()


def test_numpy_scalars_are_numbers():
    assert ka.GateConfig(temperature=np.float32(2), first_gated_block=np.int64(0)).temperature == 2.0
    assert recipe.Augment(crop_scale=[0.5, 1]).crop_scale == (0.5, 1.0)


def test_fields_given_by_position_are_called_by_name():
    with pytest.raises(ka.InputError, match=r"`heads` must be a number in \[0, 1\]. Received: heads=2.0"):
        ka.RandomPolicy(0.5, 2.0)


def test_unknown_and_missing_fields():
    with pytest.raises(ka.InputError, match=r"`GateConfig` must be given its own fields.* Received: `nothing`"):
        ka.GateConfig(nothing=1)
    with pytest.raises(ka.InputError, match=r"`data` must be .* Received: nothing"):
        recipe.Recipe(name="run")


class Unprintable:
    def __repr__(self):
        raise OSError


@pytest.mark.parametrize("value", [10**5000, np.zeros((9, 9)), Unprintable(), "two\nlines" * 100], ids=type)
@pytest.mark.parametrize("name", ["seed", "model", "xla"])
def test_what_cannot_be_printed_is_refused_in_one_line(name, value):
    with pytest.raises(ka.InputError, match=rf"^`{name}` must be .* Received: .+$") as error:
        recipe.Recipe(**{"name": "run", "data": recipe.Digits(), name: value})
    assert len(str(error.value)) < 400


def test_positive_numbers_are_positive_in_float32():
    with pytest.raises(ka.InputError, match="`temperature` must be a positive number from 1e-15"):
        ka.GateConfig(temperature=1e-320)
    with pytest.raises(ka.InputError, match="`std` must be three positive numbers"):
        recipe.ImageFolder(std=(1.0, 1.0, 1e-320))


def test_a_copy_is_checked_too():
    for wrong in itertools.product(("batch_size", "seed"), (0.5, -1, 10**30)):
        with pytest.raises(ka.InputError, match=f"`{wrong[0]}` must be"):
            dataclasses.replace(recipe.Recipe(name="run", data=recipe.Digits()), **dict([wrong]))
