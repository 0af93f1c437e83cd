"""Settings that are fixed once an object is made, and checks of what they may be."""

from collections.abc import Iterable

import numpy as np


class Setting:
    """An attribute that is read from the object's `_settings`, a dict, and cannot be set.

    Args:
        doc: What it is.
    """

    def __init__(self, doc: str):
        self.__doc__ = doc

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        return self if instance is None else instance._settings[self.name]

    def __set__(self, instance, value):
        kind = type(instance).__name__
        raise AttributeError(
            f"{self.name} of a {kind} is fixed when it is made, since compiled functions depend on it. Make another "
            f"one of the same model: {kind}(model, {self.name}={value!r}, ...)."
        )


def is_integer(value) -> bool:
    """Whether a value is a whole number by its type, of Python or NumPy; a boolean is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether a value is a real number by its type and not NaN; a boolean is none."""
    return (is_integer(value) or isinstance(value, float | np.floating)) and bool(value == value)


def read_counts(owner, *names: str) -> None:
    """Make the named attributes of a frozen `owner` ints; ValueError unless they are positive integers."""
    for name in names:
        value = getattr(owner, name)
        if not is_integer(value) or value < 1:
            raise ValueError(f"{type(owner).__name__} takes a positive integer as {name}, got {value!r}.")
        object.__setattr__(owner, name, int(value))


def read_ids(owner, name: str, values) -> tuple[int, ...]:
    """Ids as a tuple of ints, from a collection of integers; ValueError for floats, booleans and what is none."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{type(owner).__name__} takes a list of ids as {name}, got {values!r}.")
    values = tuple(values)
    if not all(map(is_integer, values)):
        raise ValueError(f"{type(owner).__name__} takes integers as {name}, got {list(values)!r}.")
    return tuple(map(int, values))
