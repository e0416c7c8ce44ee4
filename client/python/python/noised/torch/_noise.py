"""The session behind a training loop: made when it is first wanted, saved and taken up with a checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from noised._check import flag, is_a, maybe_call, one_of, real, text
from noised._closing import Closing
from noised._leaves import dtype_name
from noised._options import SessionOptions, checked
from noised._rounding import check_rounded, description_of
from noised._tree import flatten
from noised.client import Client, connect, resume
from noised.design import Design, noising_matrix_of
from noised.errors import FingerprintMismatchError, InvalidArgumentError, SessionClosedError
from noised.session import Session
from noised.sources import Gaussian, Input, Privatize, Shard, checked_shard, checked_source
from noised.streaming_matrix import StreamingMatrix
from noised.torch._writes import Writes

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Where sessions are held: a client, or what `noised.connect` takes; `local:` for a new session unless given.
Place = Client | str | Sequence[str] | None

#: The version of what `state_dict` gives.
_STATE = 1


@dataclass(frozen=True)
class Plan:
    """What a session is made for, once it is wanted."""

    noising_matrix: StreamingMatrix
    source: Gaussian | Privatize
    shard: Shard | None
    options: SessionOptions

    @classmethod
    def of(
        cls,
        noising_matrix: StreamingMatrix | Design | None,
        stddev: float | None,
        source: str,
        noise_id: str | None,
        noise_key: bytes | None,
        *,
        shard: Shard | None = None,
        **options: Unpack[SessionOptions],
    ) -> Plan:
        """Checks what can be checked without a server."""
        matrix = noising_matrix_of(noising_matrix)
        size = real("stddev", stddev)
        if not (math.isfinite(size) and size >= 0):
            raise InvalidArgumentError(field="stddev", rule=f"must be finite and not negative, found {size}")
        kind = _KINDS[one_of("source", source, tuple(_KINDS))]
        noise = checked_source(kind(size, noise_id, noise_key))
        assert not isinstance(noise, Input)
        return cls(matrix, noise, None if shard is None else checked_shard(shard), checked(options))

    @property
    def kind(self) -> str:
        """What the source is called."""
        return "gaussian" if isinstance(self.source, Gaussian) else "privatize"

    def make(self, place: Place, tree: Any) -> Session:
        """Makes it."""
        client = client_of(place)
        return client.create_session(self.noising_matrix, tree, self.source, shard=self.shard, **self.options)

    def described(self) -> dict[str, Any]:
        """How large the noise is that it makes a session for."""
        return description_of(self.noising_matrix, self.source.stddev, self.options)

    def made_for(self) -> dict[str, Any]:
        """What must be the same where a checkpoint is taken up."""
        matrix = hashlib.sha256(self.noising_matrix.to_json().encode()).hexdigest()
        shard = None if self.shard is None else f"{self.shard.index} of {self.shard.count}"
        return {
            "noising_matrix": matrix,
            "stddev": self.source.stddev,
            "source": self.kind,
            "shard": shard,
            "horizon": self.options.get("horizon"),
        }


class Noise(Closing):
    """What the classes of this package have in common. It is not made by itself."""

    _elsewhere = (
        "it holds a session, and two of it would put one noise under two gradients. Make it in the process that trains, "
        "and send state_dict() there where the training goes on"
    )

    def __init__(self, leaves: Mapping[str, torch.Tensor], plan: Plan | Session, place: Place) -> None:
        # `leaves` are gradients that are not there: shapes and formats on the device "meta". Their names are those that the
        # model has without torch.compile, whose checkpoints are the same.
        self._leaves = {_plain(path): leaf for path, leaf in leaves.items()}
        if len(self._leaves) < len(leaves):
            raise InvalidArgumentError(
                field="parameters", rule=f"must have names of their own without {_COMPILED!r}"
            )
        self._place = _checked_place(place)
        self._plan = plan if isinstance(plan, Plan) else None
        self._session: Session | None = None
        self._is_own = True
        self._closed = ""
        # The leaves as the session has them: their order and their formats.
        self._order: list[tuple[str, str]] = []
        if not isinstance(plan, Plan):
            _check_session(is_a("session", plan, Session, "a noised.Session"), self._leaves)
            self._place = self._place or plan.client
            self._session, self._is_own = plan, False
            self._order = [(leaf.path, leaf.dtype) for leaf in plan._leaves]
        else:
            is_sent = plan.kind == "privatize"
            self._order = [(path, _format(path, leaf.dtype, is_sent)) for path, leaf in leaves.items()]
            formats = ((dtype_name(leaves[path].dtype), answer) for path, answer in self._order)
            check_rounded(formats, plan.described)

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
        flag("allow_divergence", allow_divergence)
        maybe_call("on_progress", on_progress)
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
        is_a("state_dict", state_dict, Mapping, "what state_dict() gave")
        try:
            if type(state_dict["noised"]) is not int or state_dict["noised"] != _STATE:
                raise ValueError("it is of another version")
            state, made_for = state_dict["session"], state_dict["made_for"]
            leaves = [(str(path), str(dtype)) for path, dtype in state_dict["leaves"]]
            made_for = {} if made_for is None else dict(made_for)
            if not all(dtype in _DTYPES for _, dtype in leaves):
                raise ValueError("it is of another kind")
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgumentError(
                field="state_dict", rule=f"must be what state_dict() gave: {error!r}"
            ) from error
        _check_names(
            "state_dict", "must be of the same parameters", [path for path, _ in leaves], self._leaves
        )
        expected = {} if self._plan is None or not made_for else self._plan.made_for()
        for name, value in expected.items():
            found = made_for.get(name)
            if found != value:
                said = "" if name == "noising_matrix" else f": {found}, here {value}"
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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Writes]:
        """A block in which a step is taken and written down: both, or neither where it fails."""
        writes = Writes()
        try:
            yield writes
        except BaseException:
            # What decides is whether the session has counted the step, which is the last thing that happens to it.
            if self._session is None or writes.step in (None, self._session.step):
                writes.take_back()
            raise

    def _take(self, writes: Writes, sent: Callable[[], Any], write: Callable[[Any], None]) -> None:
        """Takes the step, and has `write` put down the noise, or where gradients are sent the sum of both.

        Args:
            writes: Is told which step it is.
            sent: Gives the gradients, where they are sent.
            write: Gets the answer, before the step is counted.
        """
        session = self.session
        writes.step = session.step
        if session.source == "gaussian":
            session._fetch(writes.step, write)
        else:
            session._multiply_next(sent(), writes.step, write)

    def _add(
        self,
        tensors: Sequence[torch.Tensor | None],
        writes: Writes,
        *,
        are_copies: bool = False,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Adds the step's noise in place, to tensors in the order of the leaves. Where one is `None`, its noise is dropped.

        Args:
            tensors: The gradients.
            writes: What is written goes through it.
            are_copies: The tensors are copies, which need not be put back.
            then: Is done before the step is counted.
        """
        session = self.session
        by_path = dict(zip(self._leaves, tensors, strict=True))

        def sent() -> Any:
            paths = [_plain(leaf.path) for leaf in session._leaves]
            filled = [
                torch.zeros_like(self._leaves[path], device="cpu") if by_path[path] is None else by_path[path]
                for path in paths
            ]
            return session._rebuild(iter(filled))

        def write(answer: Any) -> None:
            for path, values in flatten(answer)[0]:
                tensor, put = by_path[_plain(path)], self._writer(values)
                if tensor is not None and are_copies:
                    put(tensor)
                elif tensor is not None:
                    writes.change(tensor, put)
            then()

        self._take(writes, sent, write)

    def _writer(self, values: Any) -> Callable[[torch.Tensor], object]:
        """What writes an answer to a gradient in place."""
        # Noise is added in the wider of the two formats, and the sum is rounded once.
        is_noise = self.session.source == "gaussian"

        def write(tensor: torch.Tensor) -> None:
            given = torch.as_tensor(values)
            if is_noise:
                tensor.add_(given.to(tensor.device))
            else:
                tensor.copy_(given)

        return write

    def _resumes(self) -> bool:
        return self._plan is not None and self._plan.options.get("resume", False)

    def _tree(self, order: list[tuple[str, str]]) -> Any:
        # On the device "meta": what a session makes for such a leaf lies in the processor's memory.
        return OrderedDict(
            (path, torch.empty(self._leaves[_plain(path)].shape, dtype=_DTYPES[dtype], device="meta"))
            for path, dtype in order
        )


def shape_of(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The shape of a tensor, in a format."""
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


def client_of(place: Place) -> Client:
    """The client of a place."""
    return place if isinstance(place, Client) else connect("local:" if place is None else place)


def _checked_place(place: Place) -> Place:
    if place is None or isinstance(place, Client):
        return place
    several = [place] if isinstance(place, str) else place
    for target in is_a("client", several, (list, tuple), "a client or where one connects to"):
        text("client", target, "a client or where one connects to")
    return place


_KINDS = {"gaussian": Gaussian, "privatize": Privatize}
_DTYPES = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16}


def _format(path: str, dtype: torch.dtype, is_sent: bool) -> str:
    """The format of a leaf: where the noise is fetched, f32 for shorter ones, so that none is rounded before it is added."""
    name = dtype_name(dtype, f"parameters.{path}")
    return name if is_sent or name == "f64" else "f32"


def _check_session(session: Session, leaves: Mapping[str, torch.Tensor]) -> None:
    """Sees that somebody else's session is for these gradients."""
    if session.source == "input":
        raise InvalidArgumentError(field="session", rule="must add noise: its source is input")
    theirs = {_plain(leaf.path): leaf for leaf in session._leaves}
    _check_names("session", "must be for the parameters' names", theirs, leaves)
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
    formats = ((dtype_name(leaves[_plain(leaf.path)].dtype), answer) for leaf, answer, _ in session._places)
    check_rounded(formats, session._open().description)


#: What torch.compile puts before the names of a module's parameters.
_COMPILED = "_orig_mod."


def _plain(path: str) -> str:
    """A parameter's name without what torch.compile put into it."""
    return path.replace(_COMPILED, "")


def _check_names(field: str, rule: str, theirs: Iterable[str], ours: Iterable[str]) -> None:
    """Sees that two lists have the same names, whatever their order."""
    left, right = {_plain(path) for path in theirs}, set(ours)
    differ = sorted(left ^ right)
    if not differ:
        return
    inner = [{path.partition(".")[2] for path in paths} for paths in (left, right)]
    hint = (
        "; a wrapper names the same parameters otherwise: give the module that it wraps, such as model.module"
        if left == inner[1] or right == inner[0]
        else ""
    )
    raise InvalidArgumentError(
        field=field,
        rule=f"{rule}: {', '.join(differ[:3])}{' ...' if differ[3:] else ''} are in one of the two alone{hint}",
    )
