"""Where sessions are held: one server, several, or this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, get_args, overload

from numpy.typing import NDArray

from noised import _noised
from noised._check import flag, is_a, maybe_call, one_of, real, secret, text, whole
from noised._info import SessionInfo
from noised._leaves import Leaf, NumpyKind, describe, dtype_name
from noised._options import NoiseState, checked
from noised._token import Token
from noised._tree import Rebuild, flatten
from noised.errors import (
    CannotPickleError,
    CannotResumeError,
    FingerprintMismatchError,
    InvalidArgumentError,
    NoisedError,
    NoiseInUseError,
    NoiseUsedError,
    NoMasterKeyError,
    NotKeptError,
    PastReleasedError,
    SessionNotFoundError,
    UnavailableError,
)
from noised.session import _STATE, Session
from noised.sources import Cut, Gaussian, Input, Privatize, Shard, Source, checked_shard, checked_source
from noised.streaming_matrix import StreamingMatrix
from noised.tls import Tls, check_for, is_over_tls

_LOCAL = "local:"


@dataclass
class _Description:
    """What the native module reads to make a session."""

    matrix: str
    leaves: list[tuple[str, str, tuple[int, ...]]]
    shard: tuple[int, int] | None
    cut: str
    source: str
    stddev: float
    noise_id: str | None
    noise_key: bytes | None = field(repr=False)
    answer_dtype: str | None
    precision: str | None
    horizon: int | None
    id: str
    resume: bool
    must_exist: bool
    start_noise_over: bool
    lookahead: int | None
    noise_state: str | None
    #: The step at which the noise of a session that is gone is gone on with, and the token of every shard.
    resumed_noise: tuple[int, list[bytes]] | None = field(default=None, repr=False)


class Client:
    """Connections to the servers that hold sessions: `noised.connect(...)` makes one. Threads may share it.

    It is pickled by its targets, its `noised.Tls` and the path of its token: another process reads the files
    at those paths and connects anew. `local:` is that process there.
    """

    def __init__(
        self,
        connection: _noised.Connection,
        patience: float = 60.0,
        *,
        has_key: bool = False,
        tls: Tls | None = None,
        token: Token | None = None,
    ) -> None:
        self._connection = connection
        self._patience = patience
        self._tls = tls
        self._token = Token() if token is None else token
        # A key in a pickle would lie wherever that does.
        self._has_key = has_key

    def __reduce__(self) -> tuple[Any, ...]:
        if self._has_key:
            raise CannotPickleError(
                "a client of local: with a master key cannot be pickled, since the key would be in the pickle: connect in the "
                "other process"
            )
        self._token.check_pickled()
        return _connect_again, (self.targets, self._patience, self._tls, self._token)

    @property
    def targets(self) -> list[str]:
        """Where the servers are; `local:` is this process."""
        return self._connection.targets

    @property
    def is_local(self) -> bool:
        """Whether sessions are in this process."""
        return self.targets == [_LOCAL]

    def create_session(
        self,
        matrix: StreamingMatrix,
        tree: Any,
        source: Source | None = None,
        *,
        id: str = "",
        resume: bool = False,
        shard: Shard | None = None,
        cut: Cut = "lanes",
        precision: str | None = None,
        horizon: int | None = None,
        lookahead: int | None = None,
        noise_state: NoiseState | None = None,
        start_noise_over: bool = False,
        fetch_ahead: bool = True,
    ) -> Session[Any]:
        """Makes a session, or goes on with one.

        Args:
            matrix: The matrix `A`: to correlate noise with a strategy `C`, its noising matrix `C^-1`.
            tree: Arrays, or their shapes (`noised.ShapeDtype`, `jax.ShapeDtypeStruct`), in the structure that every step
                has: a model's parameters. Answers are of the same kind and on the same device.
            source: Where the input comes from: `Input()` unless given, `Gaussian(stddev)` or `Privatize(stddev)`.
            id: The last part of its name; where it is empty, one is made up.
            resume: Go on with the session of that id, which must exist and be made for the same. It is never made anew: a
                server that was started again may have lost it, and new noise from step 0 is not what a trainer goes on
                with. Look at `step`: a training run that goes on from a checkpoint wants `noised.resume`.
            shard: The part of the tree that this worker holds. Steps are then arrays with one axis.
            cut: Where the client has several servers, how the tree is cut between them: by `lanes` or `leaves`.
            precision: The format of state and arithmetic, `float32` or `float64`; unless set, float64 where a leaf is.
            horizon: The number of steps that it may ever produce; unless set, as many as the matrix has rows.
            lookahead: Steps whose noise the server has ready before it is asked for; unless set, the server chooses.
            noise_state: What the server keeps between steps of noise: `kept` or `replayed`; unless set, it chooses.
            start_noise_over: Draw the noise of a `noise_id` from step 0 again, though it was drawn before. Whoever says this
                answers for no noise being put under two gradients.
            fetch_ahead: Of a `Gaussian` source: ask for the next step in the background as soon as one was handed out.

        Raises:
            InvalidArgumentError: Names the field at fault.
            SessionExistsError, FingerprintMismatchError: The id is taken, or by a session for something else.
            SessionNotFoundError: With `resume`: no session has that id.
            NoiseInUseError, NoiseUsedError, NoMasterKeyError: Of a `noise_id`.
            ResourceExhaustedError: The server has no room.
        """
        source = Input() if source is None else checked_source(source)
        shard = None if shard is None else checked_shard(shard)
        options = checked(
            {
                "id": id,
                "resume": resume,
                "precision": precision,
                "horizon": horizon,
                "lookahead": lookahead,
                "noise_state": noise_state,
                "start_noise_over": start_noise_over,
                "fetch_ahead": fetch_ahead,
            }
        )
        if resume and not id:
            raise InvalidArgumentError(field="id", rule="must name the session to resume, found nothing")
        leaves, rebuild = _leaves_of(tree)
        if isinstance(source, Gaussian):
            leaves = _noise_leaves(leaves, source)
        description = _Description(
            matrix=_json_of(matrix),
            leaves=[(leaf.path, leaf.dtype, leaf.shape) for leaf in leaves],
            shard=None if shard is None else (shard.index, shard.count),
            cut=one_of("cut", cut, get_args(Cut)) if shard is None else shard.cut,
            source={Input: "input", Gaussian: "gaussian", Privatize: "privatize"}[type(source)],
            stddev=0.0 if isinstance(source, Input) else source.stddev,
            noise_id=None if isinstance(source, Input) else source.noise_id,
            noise_key=None if isinstance(source, Input) else source.noise_key,
            answer_dtype=_answer_dtype_of(source),
            precision=options["precision"],
            horizon=options["horizon"],
            id=options["id"],
            resume=options["resume"],
            must_exist=options["resume"],
            start_noise_over=options["start_noise_over"],
            lookahead=options["lookahead"],
            noise_state=options["noise_state"],
        )
        if shard is not None:
            _one_dtype(leaves)
        _check_answers(leaves, description.answer_dtype)
        native = self._connection.create_session(description)
        return self._session(
            native,
            leaves,
            rebuild,
            fetch_ahead=fetch_ahead,
            is_temporary=not id,
            is_flat=shard is not None,
        )

    @overload
    def open_session(
        self, name: str | Sequence[str], tree: None = None, *, fetch_ahead: bool = True
    ) -> Session[dict[str, NDArray[Any]]]: ...
    @overload
    def open_session(
        self, name: str | Sequence[str], tree: Any, *, fetch_ahead: bool = True
    ) -> Session[Any]: ...
    def open_session(
        self, name: str | Sequence[str], tree: Any = None, *, fetch_ahead: bool = True
    ) -> Session[Any]:
        """Takes up a session that exists.

        Args:
            name: Its name or id; where the client has several servers, the id or the names of its shards.
            tree: Arrays or shapes in the structure that steps shall have; unless given, a dict from path to array of NumPy.
            fetch_ahead: As of `create_session`.

        Raises:
            SessionNotFoundError: There is none of that name.
            InvalidArgumentError: The tree is not what the session was made for.
        """
        ahead = flag("fetch_ahead", fetch_ahead)
        return self._open_session(self._names(name), tree, fetch_ahead=ahead, is_flat=None)

    def _open_session(
        self, names: list[str], tree: Any, *, fetch_ahead: bool, is_flat: bool | None
    ) -> Session:
        return self._adopt(
            self._connection.open_session(names), tree, fetch_ahead=fetch_ahead, is_flat=is_flat
        )

    def _adopt(
        self, native: _noised.Session, tree: Any, *, fetch_ahead: bool, is_flat: bool | None
    ) -> Session:
        leaves, rebuild = _leaves_of_native(native) if tree is None else _leaves_of(tree)
        if native.source == "gaussian":
            leaves = _as_made_for(native, leaves)
        _check_same(native, leaves)
        flat = native.is_shard if is_flat is None else is_flat
        return self._session(
            native, leaves, rebuild, fetch_ahead=fetch_ahead, is_temporary=False, is_flat=flat
        )

    def get_session(self, name: str) -> SessionInfo:
        """What the server says of a session."""
        return self._get([text("name", name)])[0]

    def get_shards(self, name: str | Sequence[str]) -> list[SessionInfo]:
        """The same of every shard, where the client has several servers.

        Args:
            name: The id, or the names of the shards.
        """
        return self._get(self._names(name))

    def _get(self, names: list[str]) -> list[SessionInfo]:
        return [SessionInfo._of(found) for found in self._connection.get_sessions(names)]

    def _names(self, name: str | Sequence[str]) -> list[str]:
        """The name of a session, or those of its shards: `{id}-{i}` where only the id is given."""
        several = [name] if isinstance(name, str) else name
        is_a("name", several, (list, tuple), "a name or several")
        names = [text("name", one, "a name or several") for one in several]
        count = len(self.targets)
        return [f"{names[0]}-{i}" for i in range(count)] if len(names) == 1 < count else names

    def list_sessions(self) -> list[SessionInfo]:
        """The same of every session, by name."""
        return [SessionInfo._of(found) for found in self._connection.list_sessions()]

    def delete_session(self, name: str | Sequence[str]) -> None:
        """Ends a session and frees its memory.

        Args:
            name: As of `open_session`.
        """
        self._delete(self._names(name))

    def _delete(self, names: list[str]) -> None:
        self._connection.delete_sessions(names)

    def _session(
        self,
        native: _noised.Session,
        leaves: list[Leaf],
        rebuild: Rebuild,
        *,
        fetch_ahead: bool,
        is_temporary: bool,
        is_flat: bool,
    ) -> Session:
        if is_flat:
            first, end = native.lanes
            like = leaves[0]
            leaves, rebuild = [Leaf("lanes", like.dtype, (end - first,), like.kind.flat())], next
        return Session(
            self,
            native,
            leaves,
            rebuild,
            fetch_ahead=fetch_ahead,
            is_temporary=is_temporary,
            is_flat=is_flat,
        )

    def close(self) -> None:
        """Nothing has to be done: connections end with the last session and client that use them."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<noised.Client of {', '.join(self.targets)}>"


def connect(
    target: str | Sequence[str] = _LOCAL,
    *,
    patience: float = 60.0,
    master_key: bytes | None = None,
    tls: Tls | None = None,
    token: str | os.PathLike[str] | None = None,
    insecure: bool = False,
) -> Client:
    """Connects to where sessions are held.

    Args:
        target: `host:port`, `http://host:port`, `https://host:port` or `unix:///path` of a server, or
            `local:` for this process, which needs no server: sessions end with it. Servers that share a store
            are one target: `http://a:7467,http://b:7467`, or `dns:///name:7467` (`dns+https:///` with TLS)
            for all addresses of a name; each session is at one of them, and goes on at another where its
            server is gone. A sequence of targets is something else: each of them holds a shard.
        patience: Seconds for which a call whose server is away is tried again, and for which a server is waited for here. One
            that takes connections and says nothing is away; one that stands still in the middle of a call is noticed later,
            after a minute or so.
        master_key: Of `local:`: 32 bytes from which the noise of a `noise_id` is derived.
        tls: How TLS is spoken with `https://host:port`, which needs it. Every target is `https://` then.
        token: The token by which servers know the caller: the token itself, `noised_...`, or an `os.PathLike`
            of a file with it. The file is read for every connection, and where a server refuses the token.
        insecure: Send the token over a network without TLS, where others can read it. Without this it goes to
            `https://`, to Unix sockets and to the loopback alone.

    Raises:
        InvalidArgumentError: A target is none.
        TlsError: A server or this client is not who it must be, or a file of `tls` cannot be read.
        UnavailableError: No server answers there.
    """
    several = [target] if isinstance(target, str) else target
    is_a("target", several, (list, tuple), "a string or several")
    targets = [text("target", one, "a string or several") for one in several]
    patience, master_key = real("patience", patience), secret("master_key", master_key)
    check_for(tls, targets)
    known_by = Token.of(token, insecure)
    if known_by.is_given and _LOCAL in targets:
        raise InvalidArgumentError(
            field="token", rule="is for a server: local: is this process, and asks for none"
        )
    return _connect(targets, patience, master_key, tls, known_by)


def _connect(
    targets: list[str], patience: float, master_key: bytes | None, tls: Tls | None, token: Token
) -> Client:
    if targets == [_LOCAL]:
        connection = _noised.Connection.local(master_key)
        return Client(connection, patience, has_key=master_key is not None)
    if _LOCAL in targets:
        raise InvalidArgumentError(field="target", rule="must not have local: beside others")
    if master_key is not None:
        raise InvalidArgumentError(
            field="master_key", rule="is the server's to have: --master-key-file of noised serve"
        )
    try:
        connection = _noised.Connection(targets, patience, tls, token)
        return Client(connection, patience, tls=tls, token=token)
    except UnavailableError as error:
        # No session is concerned yet.
        error.hint = "nothing is lost: call again once the server is there"
        raise


def _connect_again(
    targets: list[str], patience: float, tls: Tls | None = None, token: Token | None = None
) -> Client:
    """A client as another process had it."""
    return _connect(targets, patience, None, tls, Token() if token is None else token)


def resume(
    state: bytes,
    tree: Any = None,
    *,
    client: Client | None = None,
    allow_divergence: bool = False,
    fetch_ahead: bool = True,
    on_progress: Callable[[int, int], object] | None = None,
) -> Session:
    """Goes on with the session of a training checkpoint: rewinds it to the step that the checkpoint was made at.

    A session that is gone, since its server was killed or it was deleted, is made again where its source is `Gaussian` with a
    `noise_id`: the bits of its noise are a function of the master key, the step and the lane. It begins at the step of the
    checkpoint; no step before that is released again.

    Args:
        state: What `Session.state` gave.
        tree: Arrays or shapes in the structure that steps shall have: the model's parameters.
        client: Where the session is; unless given, the servers that the state names are connected to. A
            session on `https://`, or on a server that wants a token, needs the client: a state has neither.
        allow_divergence: As of `Session.rewind`.
        fetch_ahead: As of `Client.create_session`.
        on_progress: As of `Session.rewind`.

    Raises:
        CannotResumeError: Says exactly why it cannot: the session is gone, is another, or never was at that step.
        InvalidArgumentError: The state is none, or the tree is not the session's.
        UnavailableError: The server is away.
    """
    targets, names, fingerprints, step, is_flat, noise = _parse(state)
    for name, given in (("allow_divergence", allow_divergence), ("fetch_ahead", fetch_ahead)):
        flag(name, given)
    maybe_call("on_progress", on_progress)
    if client is not None:
        is_a("client", client, Client, "what noised.connect gives")
    elif any(map(is_over_tls, targets)):
        raise InvalidArgumentError(
            field="client",
            rule=f"must be given for a session on {', '.join(targets)}: "
            "noised.connect(target, tls=noised.Tls(ca=...))",
        )
    client = connect(targets if len(targets) > 1 else targets[0]) if client is None else client
    is_gone = False
    try:
        try:
            session = client._open_session(names, tree, fetch_ahead=fetch_ahead, is_flat=is_flat)
        except SessionNotFoundError as error:
            if noise is None:
                raise _gone(client, names, step) from error
            is_gone = True
            native = client._connection.create_session(noise)
            session = client._adopt(native, tree, fetch_ahead=fetch_ahead, is_flat=is_flat)
    except (NoiseInUseError, NoiseUsedError, NoMasterKeyError) as error:
        raise CannotResumeError(
            f"{session_name(names)} is gone, and its noise cannot be gone on with at step {step}: {error}"
        ) from error
    try:
        if session._fingerprints() != fingerprints:
            raise FingerprintMismatchError("it was made for something else since", field="session")
        if is_gone or session.step != step:
            # The noise before this step is computed again, and released to nobody.
            session.rewind(step, allow_divergence=allow_divergence, on_progress=on_progress)
    except (FingerprintMismatchError, NotKeptError, PastReleasedError) as error:
        session.close()
        raise CannotResumeError(f"{session_name(names)} cannot go on at step {step}: {error}") from error
    except NoisedError:
        session.close()
        raise
    return session


def _gone(client: Client, names: list[str], step: int) -> CannotResumeError:
    where = ", ".join(client.targets)
    why = (
        "a session of local: ends with its process, and is found with its master key alone"
        if client.is_local
        else "it was deleted, or the server was started again and its noise is gone with it"
    )
    return CannotResumeError(
        f"{', '.join(names)} is not on {where} ({why}; that of a Gaussian source with a noise_id would not be). What was "
        f"released up to step {step} stays accounted for; a new session draws new noise, whose first step is not step "
        f"{step} of the old one"
    )


def session_name(names: Sequence[str]) -> str:
    """How messages call a session."""
    return names[0] if len(names) == 1 else f"{names[0]} and its other shards"


def _parse(state: bytes) -> tuple[list[str], list[str], list[str], int, bool, _Description | None]:
    try:
        fields = json.loads(state)
        if fields["noised"] != _STATE:
            raise ValueError("it is of another version")
        targets, names, fingerprints = (_texts(fields[key]) for key in ("targets", "names", "fingerprints"))
        if not len(targets) == len(names) == len(fingerprints) > 0:
            raise ValueError("it names no session")
        step = whole("step", fields["step"])
        noise = _noise_of(fields["noise"], names, step) if fields.get("noise") else None
        return targets, names, fingerprints, step, bool(fields["flat"]), noise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise InvalidArgumentError(field="state", rule=f"must be what Session.state gave: {error}") from error


def _noise_of(noise: dict[str, Any], names: list[str], step: int) -> _Description | None:
    """How a session that is gone is made again, of a noise that can be drawn again."""
    identifier = names[0].removeprefix("sessions/")
    if len(names) > 1:
        identifier = identifier.removesuffix("-0")
        if names != [f"sessions/{identifier}-{i}" for i in range(len(names))]:
            # Shards that were put together by hand have names that cannot be made again.
            return None
    leaves = [(path, dtype, tuple(shape)) for path, dtype, shape in noise["leaves"]]
    shard = noise["shard"]
    return _Description(
        matrix=noise["matrix"],
        leaves=leaves,
        shard=None if shard is None else (shard[0], shard[1]),
        cut=noise["cut"],
        source=noise["source"],
        stddev=noise["stddev"],
        noise_id=noise["noise_id"],
        noise_key=None,
        answer_dtype=noise["answer_dtype"],
        precision=noise["precision"],
        horizon=noise["horizon"],
        id=identifier,
        # Shards whose servers did not lose them are there.
        resume=True,
        must_exist=False,
        start_noise_over=False,
        lookahead=None,
        noise_state=None,
        resumed_noise=(step, [bytes.fromhex(token) for token in noise["tokens"]]),
    )


def _noise_leaves(leaves: list[Leaf], source: Gaussian) -> list[Leaf]:
    """The leaves of noise that is fetched: rounded to 16 bits it would not cover the digits of what it is added to."""
    if source.answer_dtype is not None:
        dtype = dtype_name(source.answer_dtype, "answer_dtype")
        return [replace(leaf, dtype=dtype) for leaf in leaves]
    return [replace(leaf, dtype="f32") if leaf.dtype in ("f16", "bf16") else leaf for leaf in leaves]


def _as_made_for(native: _noised.Session, leaves: list[Leaf]) -> list[Leaf]:
    """The leaves in the formats of the session's noise, which need not be those of what it is added to."""
    formats = [dtype for _, dtype, _ in native.leaves]
    if len(formats) != len(leaves):
        return leaves
    return [replace(leaf, dtype=dtype) for leaf, dtype in zip(leaves, formats, strict=True)]


def _texts(values: Any) -> list[str]:
    return [text("state", value) for value in is_a("state", values, list, "a list")]


def _json_of(matrix: StreamingMatrix) -> str:
    if isinstance(matrix, StreamingMatrix):
        return matrix.to_json()
    hint = ""
    if hasattr(matrix, "as_streaming_matrix"):
        hint = "; did you mean .as_streaming_matrix() or .inverse_as_streaming_matrix()?"
    elif hasattr(matrix, "noising_matrix"):
        hint = "; did you mean .noising_matrix?"
    kind = type(matrix)
    raise InvalidArgumentError(
        field="matrix",
        rule=f"must be a noised.StreamingMatrix, found {kind.__module__}.{kind.__qualname__}{hint}",
    )


def _check_answers(leaves: list[Leaf], answer_dtype: str | None) -> None:
    for leaf in leaves:
        leaf.kind.check(f"tree.{leaf.path}", answer_dtype or leaf.dtype)


def _answer_dtype_of(source: Source) -> str | None:
    if isinstance(source, Privatize) and source.answer_dtype is not None:
        return dtype_name(source.answer_dtype, "answer_dtype")
    return None


def _leaves_of(tree: Any) -> tuple[list[Leaf], Rebuild]:
    try:
        found, rebuild = flatten(tree)
    except RecursionError:
        raise InvalidArgumentError(field="tree", rule="is nested too deeply, or holds itself") from None
    return [describe(path, leaf) for path, leaf in found], rebuild


def _leaves_of_native(native: _noised.Session) -> tuple[list[Leaf], Rebuild]:
    leaves = [Leaf(path, dtype, tuple(shape), NumpyKind()) for path, dtype, shape in native.leaves]
    paths = [leaf.path for leaf in leaves]
    return leaves, lambda arrays: dict(zip(paths, arrays, strict=True))


def _check_same(native: _noised.Session, leaves: list[Leaf]) -> None:
    made_for = [(path, dtype, tuple(shape)) for path, dtype, shape in native.leaves]
    given = [(leaf.path, leaf.dtype, leaf.shape) for leaf in leaves]
    if made_for == given:
        return
    differ = next((pair for pair in zip(made_for, given, strict=False) if pair[0] != pair[1]), None)
    rule = (
        f"must be what the session was made for: {differ[0]}, found {differ[1]}"
        if differ
        else f"must have the session's {len(made_for)} leaves, found {len(given)}"
    )
    raise InvalidArgumentError(field="tree", rule=rule)


def _one_dtype(leaves: list[Leaf]) -> None:
    if len({leaf.dtype for leaf in leaves}) > 1:
        raise InvalidArgumentError(
            field="tree",
            rule="must be of one format where a worker holds a shard of it, which is an array with one axis",
        )
