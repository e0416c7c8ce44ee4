"""What can go wrong, as exceptions.

Every exception of this package is a `NoisedError`. Its text says what happened and what to do; its attributes say it to a
program. A step that failed may always be sent again: a session takes each step once, whatever became of the call.
"""

from __future__ import annotations

from typing import Any


class NoisedError(Exception):
    """Anything that this package raises about a session, a matrix or a server.

    Attributes:
        shard: Which shard failed, where the session is held by several servers.
        server: Where the server of that shard is.
    """

    hint: str = ""
    shard: int | None = None
    server: str | None = None

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        for name, value in fields.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args[0] if self.args else "", dict(self.__dict__))

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        return f"{message} ({self.hint})" if self.hint else message


def _rebuilt(kind: type[NoisedError], message: str, fields: dict[str, Any]) -> NoisedError:
    """An error as another process raised it."""
    return kind(message, **fields)


class InvalidArgumentError(NoisedError, ValueError):
    """An argument, a matrix or a tree breaks a rule.

    Attributes:
        field: The path of what is at fault, such as `matrix.factors[1].coef`.
        rule: The rule that it breaks.
    """

    field: str
    rule: str

    def __init__(self, message: str = "", *, field: str, rule: str, **fields: Any) -> None:
        super().__init__(message or f"{field}: {rule}", field=field, rule=rule, **fields)


class WrongStepError(NoisedError):
    """The session is at another step.

    Attributes:
        requested: The step that was asked for.
        expected: The step that the session expects.
    """

    hint = "go on at the expected step, or go back with session.rewind(step)"
    requested: int
    expected: int


class PayloadMismatchError(NoisedError):
    """A step that was applied was sent again with other bytes: two inputs under one step are refused.

    Attributes:
        requested: The step that was asked for.
        expected: The step that the session expects.
    """

    hint = "send the bytes of the first time again, or go on at the expected step"
    requested: int
    expected: int


class DivergedError(NoisedError):
    """A step that was released before a rewind was asked again with another gradient.

    Attributes:
        requested: The step that was asked for.
        expected: The step that the session expects.
    """

    hint = "make the training repeatable, or start a new session and account for both"
    requested: int
    expected: int


class TakenByAnotherError(NoisedError):
    """The noise of a step was given to another handle of the session, and this handle never asked for it.

    Two trainers use one session. One noise under two gradients gives the difference of the gradients away, so the noise is
    handed out to one of them.

    Attributes:
        requested: The step that was asked for.
    """

    hint = (
        "give each trainer a session of its own; the one that goes on with this session alone calls session.refresh() to "
        "stand behind that step, or session.rewind(step) to take it again"
    )
    requested: int


class PastHorizonError(NoisedError):
    """The step is at or past the number of steps that the session may ever produce.

    Attributes:
        requested: The step that was asked for.
        horizon: The number of steps.
    """

    hint = "the privacy analysis covers no more steps: design a mechanism for more of them"
    requested: int
    horizon: int


class PastReleasedError(NoisedError):
    """A rewind to a step that was never released.

    Attributes:
        requested: The step that was asked for.
        released: The number of steps that were ever released.
    """

    hint = "the server has lost or never had that step: is it the one that the checkpoint was made with?"
    requested: int
    released: int


class NotKeptError(NoisedError):
    """A rewind of a session of the client's input to a step whose state was not kept.

    Attributes:
        requested: The step that was asked for.
    """

    hint = "session.state() keeps it; states that are too many are let go, the oldest first"
    requested: int


class FingerprintMismatchError(NoisedError):
    """A session is bound to something else than what it is asked to go on with.

    Attributes:
        field: The first part of the description that differs.
    """

    hint = "describe it as it was made, or make a session under another id"
    field: str


class SessionNotFoundError(NoisedError):
    """There is no session of that name: it was deleted, or its server was started again without it."""

    hint = (
        "a run that goes on from a checkpoint wants noised.resume(state), which says whether it can; "
        "create_session without resume begins a new noise at step 0"
    )


class SessionExistsError(NoisedError):
    """A session of that name exists already."""

    hint = "go on with it with resume=True, or choose another id"


class NoiseInUseError(NoisedError):
    """Another session draws the noise of that `noise_id`."""

    hint = "delete that session if its training is over; two trainers must not have one noise"


class NoiseUsedError(NoisedError):
    """The noise of that `noise_id` was drawn before.

    Attributes:
        next_step: The first step of it that was not released, where the server knows.
    """

    hint = (
        "choose another noise_id; start_noise_over=True draws it again, and is for those who account for that"
    )
    next_step: int | None = None


class NoMasterKeyError(NoisedError):
    """A noise is to be derived from a master key, and there is none."""


class ResourceExhaustedError(NoisedError):
    """A limit of the server is reached.

    Attributes:
        retry_after: When to come back, in seconds, where waiting helps.
    """

    retry_after: float | None = None


class UnavailableError(NoisedError, ConnectionError):
    """The server cannot be reached, or is not ready, and the time for trying again is spent.

    Attributes:
        retry_after: When to come back, in seconds, where the server said so.
    """

    hint = (
        "call again once the server is there: a step is released once. A session that its server lost is told as "
        "SessionNotFoundError then, and is not begun anew"
    )
    retry_after: float | None = None


class SessionElsewhereError(UnavailableError):
    """Another server of the same store has the session, and the client was not given its address.

    Attributes:
        owner: The address of the server that has the session.
    """

    hint = "add the address of that server to the target of noised.connect: http://a:7467,http://b:7467"
    owner: str | None = None


class ConnectionBrokenError(NoisedError, ConnectionError):
    """The connection broke, and the time for trying again is spent."""

    hint = (
        "call again once the network is there: a step is released once. A session that its server lost is told as "
        "SessionNotFoundError then, and is not begun anew"
    )


class TlsError(NoisedError):
    """TLS with the server failed: a certificate, its name or its authority is not accepted, a file of
    `noised.Tls` cannot be read, or one of the two does not speak TLS. The client does not try again.
    """

    hint = "docs/identity.md has the steps: correct the files, the name or the target, and call again"


class UnauthenticatedError(NoisedError):
    """The server does not know who calls: a token is missing, unknown or expired."""

    hint = (
        "noised.connect(target, token=...) gives a client its token, and noised.resume and the adapters take "
        "such a client; the operator of the server makes tokens with `noisectl token new`"
    )


class PermissionDeniedError(NoisedError):
    """The server knows the caller, and the caller may not do this: its role or its rights do not allow it."""

    hint = "the operator of the server gives roles and rights in its tokens file"


class ProtocolError(NoisedError):
    """The server answered what no server of this protocol answers."""

    hint = "are client and server of the same version?"


class DataLossError(NoisedError):
    """The session's stored state is damaged."""


class ServerError(NoisedError):
    """Anything else that the server refused or failed at.

    Attributes:
        code: The gRPC code.
    """

    code: str = ""


class CancelledError(NoisedError):
    """The call was called off from another thread. The step may be asked for again."""


class ReentrantCallError(NoisedError, RuntimeError):
    """A call from a progress callback, or from a handler of a signal that interrupts another call."""

    hint = "a callback or a handler of a signal notes what is wanted, and it is done once that call has ended"


class CannotPickleError(NoisedError, TypeError):
    """An object cannot be sent to another process, nor copied; the text says what to send in its place."""


class MissingPackageError(NoisedError, ImportError):
    """A package that an adapter needs is not installed; the text says how to install it.

    Attributes:
        name: The package that is missing.
    """


class ForkedError(NoisedError, RuntimeError):
    """A call in the child of a fork. Parent and child would draw one noise twice, and share sockets and threads."""

    hint = (
        "connect in the child, where the parent was connected to servers alone; or start processes by spawn"
    )


class SessionClosedError(NoisedError):
    """The handle was closed. `client.open_session(name)` takes the session up again, where it was not deleted."""


class CannotResumeError(NoisedError):
    """A training run cannot go on from a checkpoint's state; the text says why, and what caused it is its `__cause__`."""
