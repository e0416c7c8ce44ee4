"""The session behind a training loop: made when it is first wanted, saved and taken up with a checkpoint."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from noised._closing import Closing
from noised._leaves import dtype_name
from noised._tree import flatten
from noised.client import Client, connect, resume
from noised.errors import FingerprintMismatchError, InvalidArgumentError, SessionClosedError
from noised.session import Session
from noised.sources import Gaussian, Privatize, Shard
from noised.streaming_matrix import StreamingMatrix

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Where sessions are held: a client, or what `noised.connect` takes; `local:` for a new session unless given.
Place = Client | str | Sequence[str] | None

#: The version of what `state_dict` gives.
_STATE = 1


class SessionOptions(TypedDict, total=False):
    """What `Client.create_session` takes as well, and means there."""

    id: str
    resume: bool
    precision: str | None
    horizon: int | None
    lookahead: int | None
    noise_state: str | None
    start_noise_over: bool
    fetch_ahead: bool


@dataclass(frozen=True)
class Plan:
    """What a session is made for, once it is wanted."""

    noising_matrix: StreamingMatrix
    stddev: float
    source: str
    noise_id: str | None
    noise_key: bytes | None = field(repr=False)
    shard: Shard | None
    options: SessionOptions

    @classmethod
    def of(
        cls,
        noising_matrix: StreamingMatrix | None,
        stddev: float | None,
        source: str,
        noise_id: str | None,
        noise_key: bytes | None,
        *,
        shard: Shard | None = None,
        **options: Unpack[SessionOptions],
    ) -> Plan:
        """Checks what can be checked without a server."""
        if not isinstance(noising_matrix, StreamingMatrix):
            hint = ": .inverse_as_streaming_matrix() makes one" if noising_matrix is not None else ""
            raise InvalidArgumentError(
                field="noising_matrix",
                rule=f"must be a StreamingMatrix, found {type(noising_matrix).__name__}{hint}",
            )
        if stddev is None or not (math.isfinite(stddev) and stddev >= 0):
            raise InvalidArgumentError(
                field="stddev", rule=f"must be finite and not negative, found {stddev}"
            )
        if source not in ("gaussian", "privatize"):
            raise InvalidArgumentError(field="source", rule=f"must be gaussian or privatize, found {source}")
        return cls(noising_matrix, float(stddev), source, noise_id, noise_key, shard, options)

    def make(self, place: Place, tree: Any) -> Session:
        """Makes it."""
        kind = Gaussian if self.source == "gaussian" else Privatize
        source = kind(self.stddev, noise_id=self.noise_id, noise_key=self.noise_key)
        client = client_of(place)
        return client.create_session(self.noising_matrix, tree, source, shard=self.shard, **self.options)

    def made_for(self) -> dict[str, Any]:
        """What must be the same where a checkpoint is taken up."""
        matrix = hashlib.sha256(self.noising_matrix.to_json().encode()).hexdigest()
        shard = None if self.shard is None else f"{self.shard.index} of {self.shard.count}"
        return {
            "noising_matrix": matrix,
            "stddev": self.stddev,
            "source": self.source,
            "shard": shard,
            "horizon": self.options.get("horizon"),
        }


class Noise(Closing):
    """What the classes of this package have in common. It is not made by itself."""

    def __init__(self, leaves: Mapping[str, torch.Tensor], plan: Plan | Session, place: Place) -> None:
        # `leaves` are gradients that are not there: shapes and formats on the device "meta".
        self._leaves = dict(leaves)
        self._place = place
        self._plan = plan if isinstance(plan, Plan) else None
        self._session: Session | None = None
        self._is_own = True
        self._closed = ""
        # The leaves as the session has them: their order and their formats.
        self._order: list[tuple[str, str]] = []
        if isinstance(plan, Session):
            _check_session(plan, self._leaves)
            self._session, self._is_own = plan, False
            self._order = [(leaf.path, leaf.dtype) for leaf in plan._leaves]
        else:
            is_sent = plan.source == "privatize"
            self._order = [(path, _format(path, leaf.dtype, is_sent)) for path, leaf in self._leaves.items()]

    @property
    def session(self) -> Session:
        """The session, which is made when it is first wanted."""
        if self._session is None:
            if self._closed or self._plan is None:
                raise SessionClosedError(self._closed or "there is no session")
            self._session = self._plan.make(self._place, self._tree(self._order))
        return self._session

    @property
    def step(self) -> int:
        """The step whose noise comes next."""
        return 0 if self._session is None and not self._resumes() else self.session.step

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint, beside those of the model and the optimizer. A few bytes: no noise and no key.

        The server is asked to keep the state of this step, so that going back to it is immediate.

        Raises:
            UnavailableError, ConnectionBrokenError: The server was away for too long. Call again.
        """
        session = self.session
        return {
            "noised": _STATE,
            "session": session.state(),
            "leaves": [list(leaf) for leaf in self._order],
            "made_for": None if self._plan is None else self._plan.made_for(),
        }

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        *,
        allow_divergence: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Goes on with the session of a checkpoint, at the step that it was made at, as `noised.resume` does.

        Where no client was given, the servers are those that the checkpoint names.

        Args:
            state_dict: What `state_dict` gave.
            allow_divergence: As of `Session.rewind`.
            on_progress: As of `Session.rewind`.

        Raises:
            CannotResumeError: Says exactly why it cannot. This object has no session then: no step is taken from another.
            FingerprintMismatchError: This object was made for another matrix, stddev, source or shard.
            InvalidArgumentError: It is no such state, or that of another model.
            UnavailableError: The server is away. Call again.
        """
        state, order = self._check_state(state_dict)
        client = None if self._place is None else client_of(self._place)
        self.close()
        self._closed = "load_state_dict has failed, and no other session may take its place"
        self._session = resume(
            state,
            self._tree(order),
            client=client,
            allow_divergence=allow_divergence,
            on_progress=on_progress,
        )
        self._order, self._is_own, self._closed = order, True, ""

    def _check_state(self, state_dict: Mapping[str, Any]) -> tuple[bytes, list[tuple[str, str]]]:
        try:
            if state_dict["noised"] != _STATE:
                raise ValueError("it is of another version")
            state, made_for = state_dict["session"], state_dict["made_for"]
            leaves = [(str(path), str(dtype)) for path, dtype in state_dict["leaves"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgumentError(
                field="state_dict", rule=f"must be what state_dict() gave: {error!r}"
            ) from error
        saved, here = {path for path, _ in leaves}, self._leaves.keys()
        if saved != here:
            differ = sorted(saved ^ here)
            raise InvalidArgumentError(
                field="state_dict",
                rule=f"must be of the same parameters: {', '.join(differ[:3])}{' ...' if differ[3:] else ''} "
                "are in one of the two alone",
            )
        for name, value in (self._plan.made_for() if self._plan is not None and made_for else {}).items():
            if made_for.get(name) != value:
                said = "" if name == "noising_matrix" else f": {made_for.get(name)}, here {value}"
                raise FingerprintMismatchError(
                    f"the checkpoint was made with another {name}{said}", field=name
                )
        return state, leaves

    def close(self) -> None:
        """Lets go of the session, as `Session.close` does; one that was given to this object stays open."""
        session, self._session = self._session, None
        self._closed = self._closed or "it was closed"
        if session is not None and self._is_own:
            session.close()

    def _add(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """Adds the step's noise in place, to tensors in the order of the leaves. Nothing is changed where it fails.

        Where one is `None`, its noise is dropped.
        """
        session = self.session
        by_path = dict(zip(self._leaves, tensors, strict=True))
        if session.source == "gaussian":
            noise = flatten(session.fetch())[0]
            for path, values in noise:
                add(by_path[path], values)
            return
        ordered = [by_path[leaf.path] for leaf in session._leaves]
        sent = [
            torch.zeros_like(self._leaves[leaf.path], device="cpu") if tensor is None else tensor
            for leaf, tensor in zip(session._leaves, ordered, strict=True)
        ]
        answers = flatten(session.privatize(session._rebuild(iter(sent))))[0]
        for path, values in answers:
            put(by_path[path], values)

    def _resumes(self) -> bool:
        return self._plan is not None and self._plan.options.get("resume", False)

    def _tree(self, order: list[tuple[str, str]]) -> Any:
        # On the device "meta": what a session makes for such a leaf lies in the processor's memory.
        return OrderedDict(
            (path, torch.empty(self._leaves[path].shape, dtype=_DTYPES[dtype], device="meta"))
            for path, dtype in order
        )


def add(tensor: torch.Tensor | None, noise: Any) -> None:
    """Adds noise in place. It is added in the wider of the two formats, and the sum is rounded once."""
    if tensor is not None:
        with torch.no_grad():
            tensor.add_(torch.as_tensor(noise).to(tensor.device))


def put(tensor: torch.Tensor | None, noisy: Any) -> None:
    """Writes a noisy gradient over the gradient."""
    if tensor is not None:
        with torch.no_grad():
            tensor.copy_(torch.as_tensor(noisy))


def shape_of(tensor: torch.Tensor) -> torch.Tensor:
    """The shape and format of a tensor."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def client_of(place: Place) -> Client:
    """The client of a place."""
    return place if isinstance(place, Client) else connect("local:" if place is None else place)


_DTYPES = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}


def _format(path: str, dtype: torch.dtype, is_sent: bool) -> str:
    """The format of a leaf: where the noise is fetched, f32 for shorter ones, so that none is rounded before it is added."""
    name = dtype_name(dtype, f"parameters.{path}")
    return name if is_sent or name == "f64" else "f32"


def _check_session(session: Session, leaves: Mapping[str, torch.Tensor]) -> None:
    """Sees that somebody else's session is for these gradients."""
    if session.source == "input":
        raise InvalidArgumentError(field="session", rule="must add noise: its source is input")
    theirs = {leaf.path: leaf for leaf in session._leaves}
    if theirs.keys() != leaves.keys():
        differ = sorted(theirs.keys() ^ leaves.keys())
        raise InvalidArgumentError(
            field="session",
            rule=f"must be for the parameters' names: {', '.join(differ[:3])}{' ...' if differ[3:] else ''} "
            "are in one of the two alone",
        )
    for path, leaf in theirs.items():
        if leaf.shape != tuple(leaves[path].shape):
            raise InvalidArgumentError(
                field=f"session.{path}",
                rule=f"must have the parameter's shape {tuple(leaves[path].shape)}, found {leaf.shape}",
            )
        if session.source == "privatize" and leaf.dtype != dtype_name(leaves[path].dtype):
            raise InvalidArgumentError(
                field=f"session.{path}",
                rule=f"must have the parameter's format {leaves[path].dtype}, found {leaf.dtype}",
            )
