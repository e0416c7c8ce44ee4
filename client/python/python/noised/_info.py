"""What a server says of a session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple


class Rewind(NamedTuple):
    """A session that went back.

    Attributes:
        from_step: The step that it stood at.
        to_step: The step that it went to.
        unix_seconds: When, in seconds since 1970.
        allow_divergence: Whether other gradients were permitted under the steps that come again.
    """

    from_step: int
    to_step: int
    unix_seconds: int
    allow_divergence: bool


@dataclass(frozen=True)
class SessionInfo(Mapping[str, Any]):
    """What a server says of a session, or of the shard of it that it holds. `info["next_step"]` is `info.next_step`.

    Attributes:
        name: `sessions/{id}`.
        fingerprint: What it is bound to, 32 bytes: a digest of matrix, tree, source and the rest of its description.
        next_step: The step that comes next.
        lanes: The lanes that it holds.
        step_bytes: Bytes of one step's answer.
        memory_bytes: Bytes that it takes on the server.
        resumed: Whether it existed before it was asked for.
        lookahead: Steps whose noise is drawn before they are asked for; `None` where the server draws none.
        kept_steps: The steps whose states are kept, to go back to.
        rewinds: The last times that it went back.
        rewind_count: How often it went back.
        released_steps: The number of steps that were ever released.
        noise_started_over: Whether its noise was begun from step 0 again.
        last_used_unix_seconds: When it was last used, in seconds since 1970.
        owner: The address by which clients reach its server, where servers share a store; else empty.
        epoch: Of a session in a store: rises whenever a server takes it.
    """

    name: str
    fingerprint: bytes
    next_step: int
    lanes: int
    step_bytes: int
    memory_bytes: int
    resumed: bool
    lookahead: int | None
    kept_steps: list[int]
    rewinds: list[Rewind]
    rewind_count: int
    released_steps: int
    noise_started_over: bool
    last_used_unix_seconds: int
    owner: str
    epoch: int

    @classmethod
    def _of(cls, found: Mapping[str, Any]) -> SessionInfo:
        told = {field.name: found[field.name] for field in fields(cls)}
        told["rewinds"] = [Rewind(*rewind) for rewind in told["rewinds"]]
        return cls(**told)

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dataclass_fields__)

    def __len__(self) -> int:
        return len(self.__dataclass_fields__)
