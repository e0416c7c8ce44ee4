"""Arguments that break a rule, told by their name."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable
from decimal import Decimal
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from noised.errors import InvalidArgumentError

T = TypeVar("T")

_MAX_U64 = (1 << 64) - 1
#: Counts that the protocol has in 32 bits.
MAX_U32 = (1 << 32) - 1
#: The most characters of a value that an error repeats.
_SHOWN = 60


def whole(field: str, value: Any, most: int = _MAX_U64) -> int:
    """A whole number from 0 to `most`: of Python's or NumPy's, or one without an axis of any library. 8.0 is one too."""
    found = _scalar(value)
    if isinstance(found, (bool, np.bool_)) or getattr(found, "ndim", 0) != 0:
        raise _not_a(field, "a whole number", value)
    try:
        number = operator.index(found)
    except TypeError:
        number = _whole_of(field, value, found)
    if not 0 <= number <= most:
        limit = {_MAX_U64: "2^64 - 1", MAX_U32: "2^32 - 1"}.get(most, str(most))
        raise InvalidArgumentError(field=field, rule=f"must be from 0 to {limit}, found {shown(number)}")
    return number


def _whole_of(field: str, value: Any, found: Any) -> int:
    if not isinstance(found, (Real, Decimal, np.floating)):
        raise _not_a(field, "a whole number", value)
    try:
        number = math.floor(found)
        is_whole = bool(found == number)
    except (ArithmeticError, ValueError):
        # Infinity, and what is no number.
        is_whole = False
    if not is_whole:
        raise InvalidArgumentError(field=field, rule=f"must be a whole number, found {shown(found)}")
    return number


def maybe_whole(field: str, value: Any, most: int = _MAX_U64) -> int | None:
    """The same, or nothing."""
    return None if value is None else whole(field, value, most)


def real(field: str, value: Any) -> float:
    """A number, of whatever library. Neither text nor a truth value is one."""
    found = _scalar(value)
    is_one = isinstance(found, (Real, Decimal)) or hasattr(type(found), "__float__")
    if isinstance(found, (bool, np.bool_)) or not is_one or getattr(found, "ndim", 0) != 0:
        raise _not_a(field, "a number", value)
    try:
        return float(found)
    except OverflowError:
        raise InvalidArgumentError(field=field, rule=f"must fit a float64, found {shown(found)}") from None
    except Exception:
        # What has `__float__` need not be able to.
        raise _not_a(field, "a number", value) from None


def maybe_real(field: str, value: Any) -> float | None:
    """The same, or nothing."""
    return None if value is None else real(field, value)


def floats(field: str, values: Any) -> NDArray[np.float64]:
    """An array of numbers, of whatever library or nested lists."""
    if isinstance(values, np.ma.MaskedArray) or _has_truth(values):
        raise _not_a(field, "numbers", values)
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":
            listed = [real(f"{field}[{i}]", value) for i, value in enumerate(array.ravel().tolist())]
            array = np.asarray(listed, np.float64).reshape(array.shape)
        # Short formats of other packages are of no kind that NumPy knows.
        if array.dtype.kind not in "fiu" and np.dtype(array.dtype).name != "bfloat16":
            raise _not_a(field, "numbers", values)
        return array.astype(np.float64)
    except InvalidArgumentError:
        raise
    except Exception as error:
        raise InvalidArgumentError(
            field=field, rule=f"must be numbers, found {shown(values)}: {error}"
        ) from None


def text(field: str, value: Any, name: str = "a string") -> str:
    """A string that can be sent."""
    string = is_a(field, value, str, name)
    try:
        string.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(field=field, rule=f"must be Unicode, found {string!a}") from None
    return string


def maybe_text(field: str, value: Any) -> str | None:
    """The same, or nothing."""
    return None if value is None else text(field, value)


def path(field: str, value: Any) -> str:
    """A path as a string: `Path("ca.pem")` is the same as `"ca.pem"`."""
    kind = "a path: a string or an os.PathLike of one"
    if not isinstance(value, os.PathLike):
        is_a(field, value, str, kind)
    try:
        found = is_a(field, os.fspath(value), str, kind)
        os.fsencode(found)
    except InvalidArgumentError:
        raise
    except Exception as error:
        # `__fspath__` of the caller's class may raise anything.
        raise InvalidArgumentError(
            field=field, rule=f"must be {kind}, found {shown(value)}: {error}"
        ) from None
    if not found or "\0" in found:
        raise InvalidArgumentError(field=field, rule=f"must name a file, found {shown(found)}")
    return found


def one_of(field: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of some names."""
    rule = f"{', '.join(choices[:-1])} or {choices[-1]}"
    if text(field, value, rule) not in choices:
        raise InvalidArgumentError(field=field, rule=f"must be {rule}, found {shown(value)}")
    return str(value)


def maybe_one_of(field: str, value: Any, choices: tuple[str, ...]) -> str | None:
    """The same, or nothing."""
    return None if value is None else one_of(field, value, choices)


def flag(field: str, value: Any) -> bool:
    """A truth value. The text "no" is refused, although Python takes it for true."""
    if not isinstance(value, (bool, np.bool_)):
        raise _not_a(field, "True or False", value)
    return bool(value)


def several(field: str, value: Any, name: str) -> list[Any]:
    """The values of what can be gone through, which is called `name`."""
    try:
        return list(value)
    except Exception:
        # An array without axes has `__iter__` and cannot be gone through all the same.
        raise _not_a(field, name, value) from None


def secret(field: str, value: Any) -> bytes | None:
    """Bytes or nothing, which no error repeats."""
    if value is None:
        return None
    return bytes(is_a(field, value, (bytes, bytearray, memoryview), "bytes"))


def maybe_call(field: str, value: Any) -> Callable[..., object] | None:
    """A function or nothing."""
    if value is not None and not callable(value):
        raise _not_a(field, "a function", value)
    called: Callable[..., object] | None = value
    return called


def is_a(field: str, value: Any, kind: type[T] | tuple[type[T], ...], name: str) -> T:
    """A value of a type, which is called `name`."""
    if not isinstance(value, kind):
        raise _not_a(field, name, value)
    return value


def shown(value: Any) -> str:
    """A value as an error repeats it: in a few characters, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        # Python refuses to write out the longest of them.
        return f"a whole number of {value.bit_length()} bits"
    try:
        said = repr(value)
    except Exception:
        return f"a {type(value).__name__}"
    return said if len(said) <= _SHOWN else said[: _SHOWN - 3] + "..."


def _not_a(field: str, name: str, value: Any) -> InvalidArgumentError:
    found = value.__name__ if isinstance(value, type) else type(value).__name__
    return InvalidArgumentError(field=field, rule=f"must be {name}, found {found}")


def _scalar(value: Any) -> Any:
    """What an array without axes, or a scalar of a library, holds."""
    if isinstance(value, type) or getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except Exception:
        return value


def _has_truth(values: Any) -> bool:
    """Whether there is a truth value in nested lists, where NumPy would make a 1 of it."""
    if isinstance(values, (list, tuple)):
        # What is nested deeper than NumPy takes is refused by NumPy.
        return any(map(_has_truth_within, values))
    return isinstance(values, (bool, np.bool_))


def _has_truth_within(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(inner, (bool, np.bool_)) for inner in value)
    return isinstance(value, (bool, np.bool_))
