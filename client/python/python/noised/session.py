"""Sessions: one step after the other, on trees."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
from numpy.typing import NDArray

from noised import _noised
from noised._ahead import Ahead
from noised._check import flag, maybe_call, whole
from noised._closing import Closing
from noised._info import SessionInfo
from noised._leaves import SIZES, Leaf, to_bytes
from noised._pool import Pool
from noised._tree import Rebuild, difference, flatten
from noised._turn import Turn
from noised.errors import (
    InvalidArgumentError,
    NoisedError,
    SessionClosedError,
    SessionNotFoundError,
    TakenByAnotherError,
    WrongStepError,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from noised.client import Client

    #: The type of a step's tree; anything where nobody says.
    Tree = TypeVar("Tree", default=Any)
else:
    from typing import TypeVar

    Tree = TypeVar("Tree")

T = TypeVar("T")

#: The version of what `Session.state` gives.
_STATE = 1


class Session(Closing, Generic[Tree]):
    """A session on a server, on several, or in this process: `client.create_session(...)` makes one.

    A session takes each step once. Every call knows its step, so a call that failed or was interrupted is simply made
    again, with the same input: the step is then finished or its answer is given again, byte for byte. Calls from several
    threads wait for each other.

    It is generic in the type of its steps' trees, for programs that are checked:
    `session: noised.Session[dict[str, NDArray[np.float32]]] = client.create_session(...)`.

    As a context manager it is closed at the end. A session that was given no id, and of which `state` was never taken,
    is deleted then: nobody could find it again.
    """

    _elsewhere = (
        "two handles would take the same steps. Send session.state() where a checkpoint goes on, or client and "
        "session.name where client.open_session takes the session over"
    )

    def __init__(
        self,
        client: Client,
        native: _noised.Session,
        leaves: list[Leaf],
        rebuild: Rebuild,
        *,
        fetch_ahead: bool,
        is_temporary: bool,
        is_flat: bool,
    ) -> None:
        self._client = client
        self._native: _noised.Session | None = native
        self._leaves = leaves
        self._rebuild = rebuild
        self._is_temporary = is_temporary
        self._is_flat = is_flat
        self._paths = [leaf.path for leaf in leaves]
        self._places = _places(leaves, native.answer_dtype)
        self._source = native.source
        self._horizon = native.horizon
        self._step = native.next_step()
        self._pool = Pool(native.step_bytes)
        self._ahead = Ahead(native, self._pool) if fetch_ahead and self._source == "gaussian" else None
        self._turn = Turn()
        #: The last step that was asked for: the server may have released it, whatever became of its answer here.
        self._asked: int | None = None
        #: How often it went back, of each shard, as far as this handle knows.
        self._rewinds = _rewinds(native)
        # Calls off a step that another thread waits for.
        self._cancel: _noised.CancelToken | None = None

    # What it is.

    @property
    def client(self) -> Client:
        """Where it is held."""
        return self._client

    @property
    def name(self) -> str:
        """`sessions/{id}`: of several shards, that of the first."""
        return self._open().names[0]

    @property
    def names(self) -> list[str]:
        """The names of its shards, one for each of the client's servers; of a session in one place, its name."""
        return self._open().names

    @property
    def step(self) -> int:
        """The step that comes next: the first that this handle has not handed out."""
        return self._step

    @property
    def horizon(self) -> int | None:
        """The number of steps that it may ever produce, where there is an end."""
        return self._horizon

    @property
    def lanes(self) -> range:
        """The lanes that it holds, in the whole tree."""
        return range(*self._open().lanes)

    @property
    def step_bytes(self) -> int:
        """Bytes of one step's answer."""
        return self._open().step_bytes

    @property
    def source(self) -> str:
        """Where its input comes from: `input`, `gaussian` or `privatize`."""
        return self._source

    @property
    def resumed(self) -> bool:
        """Whether it existed before it was asked for."""
        return self._open().resumed

    def info(self) -> list[SessionInfo]:
        """What the server, or that of each shard, says of the session now."""
        with self._turn:
            names = self._open().names
            return self._client._get(names)

    # Steps.

    def multiply_next(self, tree: Tree, step: int | None = None) -> Tree:
        """`(A x)_t` for the tree `x_t`; where the source is `Privatize`, `g_t + (A z)_t` for the gradients `g_t`.

        Args:
            tree: Arrays in the session's structure, shapes and formats. Memory that is contiguous is sent as it lies.
            step: The step that this is, for a caller who keeps count; `self.step` unless given.

        Returns:
            A tree of the same structure: arrays of the same kind, shape and device, in memory that is theirs.

        Raises:
            InvalidArgumentError: A leaf is not what the session was made for; the message names it.
            WrongStepError, PayloadMismatchError, DivergedError, PastHorizonError: The step is refused.
            UnavailableError, ConnectionBrokenError: The server was away for too long. Call again.
        """
        answer: Tree = self._multiply_next(tree, step, _as_it_is)
        return answer

    def _multiply_next(self, tree: Any, step: int | None, use: Callable[[Any], T]) -> T:
        """`multiply_next`, whose answer goes to `use`. Where that fails, the step is not counted: it comes next again."""
        with self._turn:
            native = self._open()
            if self._source == "gaussian":
                raise InvalidArgumentError(
                    field="source", rule="is gaussian, whose steps are fetched: session.fetch()"
                )
            wanted = self._step if step is None else whole("step", step)
            pieces = self._pieces(tree)
            data = self._pool.take()
            native.take(wanted, pieces, data, self._cancel)
            used = use(self._tree_of(data))
            # Only what can be handed out is counted: else the step is asked for again, and answered again.
            self._step = wanted + 1
        return used

    def privatize(self, gradients: Tree, step: int | None = None) -> Tree:
        """`multiply_next` of a session that is sure to add noise: its source must be `Privatize`.

        Args:
            gradients: The sum or mean of clipped gradients, as the session's tree.
            step: As of `multiply_next`.

        Returns:
            The same with the noise of the step, a tree of the same structure.

        Raises:
            InvalidArgumentError: The session's source is another; and whatever `multiply_next` raises.
        """
        if self._source != "privatize":
            raise InvalidArgumentError(
                field="source", rule=f"is {self._source}: no noise is added to what is sent"
            )
        return self.multiply_next(gradients, step)

    def fetch(self, step: int | None = None) -> Tree:
        """`(A z)_t`, of a session whose source is `Gaussian`.

        Unless the session was made with `fetch_ahead=False`, the next step is asked for at once, in the background, so
        that its noise is there when it is wanted.

        Args:
            step: The step that this is, for a caller who keeps count; `self.step` unless given. Whoever catches a Ctrl-C and
                goes on has to: it may come when a step is counted and not handed out. The step before is given again.

        Returns:
            A tree in the session's structure.

        Raises:
            InvalidArgumentError: The source is another.
            WrongStepError, PastHorizonError: The step is refused.
            TakenByAnotherError: Another handle of the session was given the step, and this one never asked for it.
            UnavailableError, ConnectionBrokenError: The server was away for too long. Call again.
        """
        noise: Tree = self._fetch(step, _as_it_is)
        return noise

    def _fetch(self, step: int | None, use: Callable[[Any], T]) -> T:
        """`fetch`, whose answer goes to `use`. Where that fails, the step is not counted: it comes next again."""
        with self._turn:
            native = self._open()
            if self._source != "gaussian":
                raise InvalidArgumentError(
                    field="source", rule=f"is {self._source}: a step needs a tree, multiply_next(tree)"
                )
            wanted = self._step if step is None else whole("step", step)
            data = self._take_ahead(wanted)
            if data is None:
                data = self._pool.take()
                self._asked = wanted
                try:
                    native.take(wanted, None, data, self._cancel)
                except TakenByAnotherError:
                    # What another has is not this handle's to give back, or to be given again.
                    self._asked = None
                    raise
            used = use(self._tree_of(data))
            if use is not _as_it_is:
                # What is written down already cannot be handed out again, whatever comes now.
                self._step = wanted + 1
            self._begin_ahead(wanted + 1)
            # Only what can be handed out is counted: else the step is asked for again, and answered again.
            self._step = wanted + 1
        return used

    def _take_ahead(self, wanted: int) -> NDArray[np.uint8] | None:
        """The bytes of a step, where it was asked for ahead."""
        ahead = self._ahead
        if ahead is None or ahead.pending is None or ahead.pending == wanted:
            return None if ahead is None else ahead.take(wanted)
        if wanted + 1 != ahead.pending:
            # The server has released another step than it was asked for: it would name the wrong one.
            raise WrongStepError(
                f"step {wanted} cannot be served: the session expects step {self._step}",
                requested=wanted,
                expected=self._step,
            )
        # The step that was handed out last, or all but: the server has gone past it.
        native = self._open()
        ahead.stop()
        native.rewind(wanted, False)
        self._rewinds = _rewinds(native)
        return None

    def _begin_ahead(self, step: int) -> None:
        if self._ahead is None or (self._horizon is not None and step >= self._horizon):
            return
        # Where no thread can be started, the next step is fetched when it is wanted.
        with contextlib.suppress(RuntimeError):
            self._asked = step
            self._ahead.begin(step)

    def _pieces(self, tree: Any) -> list[NDArray[np.uint8]]:
        if self._is_flat:
            return [to_bytes(self._leaves[0], tree)]
        found, _ = flatten(tree)
        paths = [path for path, _ in found]
        if paths != self._paths:
            raise InvalidArgumentError(
                field="tree", rule=difference(self._paths, paths, "the session was made for")
            )
        return [to_bytes(leaf, array) for leaf, (_, array) in zip(self._leaves, found, strict=True)]

    def _tree_of(self, data: NDArray[np.uint8]) -> Any:
        arrays = [leaf.kind.make(data[place], dtype, leaf.shape) for leaf, dtype, place in self._places]
        return self._rebuild(iter(arrays))

    # Going back.

    def state(self) -> bytes:
        """A few bytes to put into a training checkpoint, with which `noised.resume` goes on at `self.step`.

        Of a `Gaussian` source with a `noise_id`, the state describes the session as well, and `noised.resume` makes it again
        where it is gone. Keep that state as secret as the checkpoint: who has it may go on with the noise.

        The server is asked to keep the state of this step, so that going back to it is immediate; where it keeps as
        many as it may, it lets go of the oldest.

        Raises:
            UnavailableError, ConnectionBrokenError: The server was away for too long. Call again.
        """
        with self._turn:
            native = self._open()
            tokens = self._keep_state(native)
            self._is_temporary = False
            state: dict[str, Any] = {
                "noised": _STATE,
                "targets": self._client.targets,
                "names": native.names,
                "fingerprints": self._fingerprints(),
                "step": self._step,
                "flat": self._is_flat,
            }
            if tokens is not None:
                # With this state alone, a program goes on with the noise after the session is gone.
                state["noise"] = {
                    **native.description(),
                    "leaves": native.leaves,
                    "tokens": [token.hex() for token in tokens],
                }
            return json.dumps(state, separators=(",", ":")).encode()

    def _keep_state(self, native: _noised.Session) -> list[bytes] | None:
        try:
            return native.keep_state(self._step, True)
        except WrongStepError as error:
            if not self._is_unseen(native, error.expected):
                raise
            # The answers of the last steps reached nobody, and the state of this step is gone. Noise is drawn again.
            native.rewind(self._step, False)
            self._stand_at(self._step)
            return native.keep_state(self._step, True)

    def _is_unseen(self, native: _noised.Session, stands: int) -> bool:
        """Whether a session that stands there was brought there by this handle, in steps that it did not hand out."""
        if self._source == "privatize":
            return stands == self._step + 1
        # After a Ctrl-C: a step that was not counted, and the one that was asked for ahead.
        if not self._is_own(stands):
            return False
        if self._ahead is not None and isinstance(self._ahead.stop(), TakenByAnotherError):
            self._asked = None
        told = self._client._get(native.names)
        is_own = all(self._is_own(shard.next_step) for shard in told)
        # Where another handle went back, the steps that come then are its own.
        return is_own and [shard.rewind_count for shard in told] == self._rewinds

    def rewind(
        self,
        step: int,
        *,
        allow_divergence: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Goes back to a step, so that it and those after it are asked for again.

        Noise that the server draws comes again bit for bit. Where the source is `Privatize`, a step that was released gives
        the same bytes for the same gradient and is refused for another.

        Args:
            step: The step to go to.
            allow_divergence: Permit other gradients: one noise under two gradients gives their difference away, and whoever
                says this accounts for that.
            on_progress: Gets the number of steps whose state was computed again, and of all that have to be. What it
                raises ends the rewind.

        Raises:
            PastReleasedError: The step was never released.
            NotKeptError: The client's input cannot be drawn again, and the state of the step was not kept.
        """
        with self._turn:
            native = self._open()
            step = whole("step", step)
            flag("allow_divergence", allow_divergence)
            maybe_call("on_progress", on_progress)
            if self._ahead is not None:
                self._ahead.stop()
            before = native.next_step()
            try:
                native.rewind(step, allow_divergence, on_progress)
            except BaseException:
                # Where nothing moved, the step that was asked for ahead is still to be handed out.
                if native.next_step() != before:
                    self._stand_at(native.next_step())
                raise
            self._stand_at(native.next_step())

    def refresh(self) -> None:
        """Asks the server where the session stands, and goes on from there."""
        with self._turn:
            native = self._open()
            if self._ahead is not None and isinstance(self._ahead.stop(), TakenByAnotherError):
                self._asked = None
            native.refresh()
            stands = native.next_step()
            if not self._is_own(stands):
                self._stand_at(stands)
            elif stands > self._step + 1:
                native.rewind(self._step, False)
                self._stand_at(self._step)
            # Of one step alone that was released to this handle and not handed out, the server gives the answer again.

    def _is_own(self, stands: int) -> bool:
        """Whether a session that stands there is past this handle by what this handle asked for alone."""
        return self._asked is not None and self._step < stands <= self._asked + 1

    def _stand_at(self, step: int) -> None:
        self._step, self._asked = step, None
        self._rewinds = _rewinds(self._open())

    # The end.

    def close(self) -> None:
        """Lets go of the handle. The session itself stays, unless it is one that nobody could find again."""
        with self._turn:
            native = self._native
            if native is None:
                return
            if self._ahead is not None and isinstance(self._ahead.stop(), TakenByAnotherError):
                self._asked = None
            self._native = None
            # Somebody may have deleted it.
            with contextlib.suppress(SessionNotFoundError):
                if self._is_temporary:
                    self._client._delete(native.names)
                elif self._source == "gaussian" and self._asked is not None and self._asked >= self._step:
                    self._give_back(native)

    def _give_back(self, native: _noised.Session) -> None:
        """Goes back by what was asked for and never handed out: whoever goes on with the session finds it where this handle
        was. Not where somebody did go on with it."""
        native.refresh()
        is_own = all(self._is_own(shard["next_step"]) for shard in native.info())
        if is_own and _rewinds(native) == self._rewinds:
            native.rewind(self._step, False)

    def delete(self) -> None:
        """Ends the session, and frees its memory on the server."""
        with self._turn:
            names = self._open().names
            if self._ahead is not None:
                self._ahead.stop()
            self._client._delete(names)
            self._native = None

    def __del__(self) -> None:
        # Where making it failed, there is nothing to be closed; and at the end of the program, everything ends.
        if getattr(self, "_native", None) is None or not self._is_temporary or sys.is_finalizing():
            return
        warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2)
        if self._client.is_local and self._native is not None:
            # No network is waited for, and the memory is this process's.
            with contextlib.suppress(NoisedError):
                self._client._delete(self._native.names)

    def __repr__(self) -> str:
        if self._native is None:
            return "<noised.Session, closed>"
        return f"<noised.Session {self.name} on {', '.join(self._client.targets)}, {self._source}, step {self._step}>"

    def _uncount(self, step: int) -> None:
        """Has the last step, whose answer reached nobody, come next again."""
        with self._turn:
            self._step = step

    def _call_off(self) -> None:
        """Ends the step that another thread waits for, with `CancelledError`."""
        if self._cancel is not None:
            self._cancel.cancel()
        if self._ahead is not None:
            self._ahead.call_off()

    def _fingerprints(self) -> list[str]:
        return [fingerprint.hex() for fingerprint in self._open().fingerprints]

    def _open(self) -> _noised.Session:
        if self._native is None:
            raise SessionClosedError("the session's handle is closed")
        return self._native


def _as_it_is(answer: Any) -> Any:
    return answer


def _rewinds(native: _noised.Session) -> list[int]:
    return [shard["rewind_count"] for shard in native.info()]


def _places(leaves: list[Leaf], answer_dtype: str | None) -> list[tuple[Leaf, str, slice]]:
    """Each leaf with the format of its answer, and where that lies in an answer's bytes."""
    places = []
    start = 0
    for leaf in leaves:
        dtype = answer_dtype or leaf.dtype
        end = start + leaf.lanes * SIZES[dtype]
        places.append((leaf, dtype, slice(start, end)))
        start = end
    return places
