"""Settings: frozen dataclasses that check the type and the range of each field where it is declared.

pydantic checks, strictly: no number is made of a string or a bool, none may be NaN or infinite. What it finds is raised
as one `InputError`.
"""

import dataclasses
import functools
import types
import typing
from typing import Annotated

import numpy as np
import pydantic

from keras_adavit.errors import InputError, printable

CONFIG = pydantic.ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, extra="forbid")
LARGEST = 2**31 - 1  # an integer that every backend and file format holds


@dataclasses.dataclass(frozen=True)
class Words:
    """What a type accepts, as the end of "must be …"."""

    text: str


def checked(kind, words, *checks, **bounds):
    """A type with bounds, and words for it.

    Args:
        kind: The type.
        words: What it accepts.
        *checks: Functions of a value that raise `ValueError`.
        **bounds: As of `pydantic.Field`: `ge`, `gt`, `le`, `lt`.
    """
    validators = [pydantic.AfterValidator(check) for check in checks]
    return Annotated[(kind, pydantic.Field(**bounds), *validators, Words(words))]


def whole(first, last=LARGEST):
    """Whole numbers from `first` to `last`."""
    return checked(int, f"a whole number from {first} to {last}", ge=first, le=last)


PositiveInt = whole(1)
NonNegativeInt = whole(0)
Seed = whole(0)
ImageSize = whole(1, 8192)
BatchSize = whole(1, 2**20)
PositiveFloat = checked(
    float, "a positive number from 1e-15 to 1e15", ge=1e-15, le=1e15
)  # float32 holds it and its square
NonNegativeFloat = checked(float, "0 or a positive number up to 1e15", ge=0, le=1e15)
FiniteFloat = checked(float, "a number from -1e15 to 1e15", ge=-1e15, le=1e15)
Share = checked(float, "a number in [0, 1]", ge=0, le=1)
PositiveShare = checked(float, "a number in (0, 1]", gt=0, le=1)
Rate = checked(float, "a number in [0, 1)", ge=0, lt=1)
Threshold = checked(float, "a number in (0, 1)", gt=0, lt=1)


def numbers(kind, count, words):
    """A tuple of `count` numbers, which may come as a list: JSON has no tuples."""
    return Annotated[(tuple[(kind,) * count], pydantic.Strict(False), Words(words))]


def several(kind, words):
    """A tuple of one number or more, which may come as a list: JSON has no tuples."""
    return Annotated[tuple[kind, ...], pydantic.Strict(False), pydantic.Field(min_length=1), Words(words)]


def check_folder_name(name):
    if not name.strip() or name in (".", "..") or len(name.encode(errors="replace")) > 200 or set(name) & set("/\\\0"):
        raise ValueError
    return name


def check_file_name(name):
    if "\0" in name or any(len(part.encode(errors="replace")) > 255 for part in name.split("/")):
        raise ValueError
    return name


FolderName = checked(str, "the name of one folder, without slashes", check_folder_name)
FileName = checked(str, "the name of a file or a folder", check_file_name)


def settings(cls=None, **options):
    """Makes a class a frozen dataclass whose constructor raises `InputError` for wrong fields.

    Args:
        cls: The class.
        **options: As of `dataclasses.dataclass`.
    """
    if cls is None:
        return functools.partial(settings, **options)
    cls = pydantic.dataclasses.dataclass(cls, frozen=True, config=CONFIG, **options)
    construct = cls.__init__

    @functools.wraps(construct)
    def __init__(self, *args, **kwargs):
        args, kwargs = [plain(value) for value in args], {name: plain(value) for name, value in kwargs.items()}
        try:
            construct(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            names = [field.name for field in dataclasses.fields(cls)]
            raise InputError(describe(error, cls, dict(zip(names, args, strict=False)) | kwargs)) from None

    cls.__init__ = __init__
    return cls


def plain(value):
    """A NumPy scalar as the Python number that it holds; everything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def describe(error, cls, given):
    """The sentence for the first of the errors that pydantic found in the fields that a class was given."""
    first = error.errors(include_url=False)[0]
    reason = first.get("ctx", {}).get("error")
    if isinstance(reason, InputError):  # raised by a class that checks how its fields go together
        return str(reason)
    name = first["loc"][0] if first["loc"] else cls.__name__
    name = dataclasses.fields(cls)[name].name if isinstance(name, int) else str(name)  # a number: given by position
    hints = typing.get_type_hints(cls, include_extras=True)
    if name not in hints:
        return f"`{cls.__name__}` must be given its own fields, {', '.join(hints)}. Received: `{name}`"
    received = f"{name}={shorten(given[name])}" if name in given else "nothing"
    return f"`{name}` must be {words_for(hints[name])}. Received: {received}"


def words_for(annotation):
    """What a type accepts, as the end of "must be …"."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        found = [part.text for part in parts[1:] if isinstance(part, Words)]
        return found[0] if found else words_for(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(words_for(part) for part in parts)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, parts))
    simple = {bool: "True or False", str: "a string", int: "a whole number", float: "a number", type(None): "None"}
    return simple.get(annotation) or f"a `{getattr(annotation, '__name__', annotation)}`"


def shorten(value, length=200):
    """A value as text that can be printed and fits into a sentence."""
    try:
        text = printable(" ".join(repr(value).split()))
    except Exception:  # an integer of thousands of digits, or whatever else a `__repr__` raises
        text = f"a value of the type {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}…"
