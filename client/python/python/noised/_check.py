"""Arguments that break a rule, told by their name."""

from __future__ import annotations

import operator
from typing import Any, TypeVar

from noised.errors import InvalidArgumentError

T = TypeVar("T")


def whole(field: str, value: Any) -> int:
    """A whole number that is not negative, of Python's or NumPy's."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgumentError(
            field=field, rule=f"must be a whole number, found {type(value).__name__}"
        ) from None
    if not 0 <= number < 1 << 64:
        raise InvalidArgumentError(field=field, rule=f"must be from 0 to 2^64 - 1, found {number}")
    return number


def maybe_whole(field: str, value: Any) -> int | None:
    """The same, or nothing."""
    return None if value is None else whole(field, value)


def is_a(field: str, value: Any, kind: type[T] | tuple[type[T], ...], name: str) -> T:
    """A value of a type, which is called `name`."""
    if not isinstance(value, kind):
        found = value.__name__ if isinstance(value, type) else type(value).__name__
        raise InvalidArgumentError(field=field, rule=f"must be {name}, found {found}")
    return value


def real(field: str, value: Any) -> float:
    """A number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            field=field, rule=f"must be a number, found {type(value).__name__}"
        ) from None
