"""What a session is made with, checked before any server is asked."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, cast, get_args

from noised._check import MAX_U32, flag, maybe_one_of, maybe_whole, text
from noised._leaves import dtype_name
from noised.errors import InvalidArgumentError

#: What a server keeps between steps of noise.
NoiseState = Literal["kept", "replayed"]


class SessionOptions(TypedDict, total=False):
    """What `Client.create_session` takes beside matrix, tree and source, and means there."""

    id: str
    resume: bool
    precision: str | None
    horizon: int | None
    lookahead: int | None
    noise_state: NoiseState | None
    start_noise_over: bool
    fetch_ahead: bool


def checked(options: SessionOptions) -> SessionOptions:
    """The same, as the native module takes them.

    Raises:
        InvalidArgumentError: Names the first that breaks a rule.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _CHECKS:
            raise InvalidArgumentError(field=name, rule="is no option of a session")
        found[name] = _CHECKS[name](name, value)
    return cast(SessionOptions, found)


def _precision(field: str, value: Any) -> str | None:
    return None if value is None else dtype_name(value, field)


_CHECKS: dict[str, Any] = {
    "id": text,
    "resume": flag,
    "precision": _precision,
    "horizon": maybe_whole,
    "lookahead": lambda field, value: maybe_whole(field, value, MAX_U32),
    "noise_state": lambda field, value: maybe_one_of(field, value, get_args(NoiseState)),
    "start_noise_over": flag,
    "fetch_ahead": flag,
}
