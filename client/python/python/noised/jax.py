"""Noise in a training loop of JAX: a gradient transformation of optax whose noise comes from a session.

    import noised.jax

    privatizer = noised.jax.privatizer(noising_matrix, stddev=stddev, client="localhost:7467")
    optimizer = optax.chain(privatizer, optax.scale(1 / batch_size), optax.sgd(learning_rate))

It takes the place of `jax_privacy.noise_addition.matrix_factorization_privatizer`, and is used in the same way, under
`jax.jit` as well. Needs jax and optax: `pip install 'noised[jax]'`.

What goes wrong in a step is a `noised.NoisedError` where `update` is called as it is. Under `jax.jit`, JAX tells of it as
`jax.errors.JaxRuntimeError`, whose text ends with the error's own; `Privatizer.error` is the error itself, and a block
`with privatizer.errors():` raises it. The step may be taken again with the same state, whatever became of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from noised._extras import missing

try:
    import jax
    import optax
except ImportError as error:
    raise missing(error, "jax") from error

from noised import client as _client
from noised._check import flag, floats, one_of
from noised._closing import Closing
from noised._jax import New, Old, PrivatizerState, Steps
from noised._leaves import dtype_name, numpy_dtype
from noised._options import NoiseState, checked
from noised.buffered_toeplitz import BufferedToeplitz
from noised.client import Client
from noised.design import Design, Recommendation, noising_matrix_of
from noised.errors import InvalidArgumentError
from noised.session import Session
from noised.sources import Cut, Gaussian, Privatize, Shard, Source, checked_shard, checked_source
from noised.streaming_matrix import StreamingMatrix, dense, identity

__all__ = [
    "Privatizer",
    "PrivatizerState",
    "gaussian_privatizer",
    "matrix_factorization_privatizer",
    "privatizer",
    "shard",
]


class Privatizer(Closing, optax.GradientTransformation):  # type: ignore[misc]  # It comes without types.
    """A gradient transformation that adds a session's noise: `privatizer(...)` makes one.

    As a context manager, it raises what went wrong in a step as `errors` does, and closes the session at the end. One that
    is never closed is closed when the program ends.
    """

    _steps: Steps
    _elsewhere = (
        "it holds a session, and two of it would put one noise under two gradients. Make it in the process that trains, "
        "with resume_from=state_bytes() where the training goes on"
    )

    def __new__(cls, steps: Steps) -> Privatizer:
        """Use `privatizer`."""
        made: Privatizer = super().__new__(cls, steps.init, steps.update)
        made._steps = steps
        return made

    @property
    def session(self) -> Session:
        """Its session, once every step that was dispatched is done. There is one after `init`."""
        self._wait()
        return self._steps.open()

    @property
    def error(self) -> BaseException | None:
        """What went wrong in the last step that was taken under `jax.jit`, where something did."""
        return self._steps.error

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """A block in which a `JaxRuntimeError` that stands for an error of a step is raised as that error.

        JAX may tell of an error only when somebody waits for what was computed: wait inside the block.
        """
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            self._steps.raise_kept(error)
            raise

    def state_bytes(self) -> bytes:
        """`Session.state`, once every step that was dispatched is done: what a checkpoint holds beside the optimizer's state.

        `privatizer(..., resume_from=state)` goes on with it.

        Raises:
            Whatever `Session.state` raises.
        """
        return self.session.state()

    def close(self) -> None:
        """Closes the session, as `Session.close` does, once every step that was dispatched is done."""
        self._wait()
        self._steps.close()

    def _wait(self) -> None:
        # What went wrong in a step is told to whoever uses its answer.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.effects_barrier()  # type: ignore[no-untyped-call]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, jax.errors.JaxRuntimeError):
            self._steps.raise_kept(error)


def privatizer(
    noising_matrix: StreamingMatrix | Design | ArrayLike,
    *,
    stddev: float,
    client: Client | str | Sequence[str] | None = None,
    source: Literal["gaussian", "privatize"] = "gaussian",
    dtype: Any = None,
    id: str = "",
    resume: bool = False,
    resume_from: bytes | None = None,
    allow_divergence: bool = False,
    noise_id: str | None = None,
    noise_key: bytes | None = None,
    horizon: int | None = None,
    precision: str | None = None,
    shard: Shard | None = None,
    lookahead: int | None = None,
    noise_state: NoiseState | None = None,
    start_noise_over: bool = False,
    fetch_ahead: bool = True,
) -> Privatizer:
    """Makes a gradient transformation that adds correlated noise: to step `t`'s gradients, row `t` of the matrix times `z`.

    The session is made when `init` is first called with arrays; or when a trace of it, or of the first step, first runs.
    Its tree is that of the parameters, and each gradient must have the same structure, shapes and formats. The step in the
    optimizer's state is the one that is asked for: the step before is answered again with the same noise, and any other than
    the next is a `WrongStepError`. So carry the state: of `gaussian`, nobody notices another gradient under the same step, and
    one noise under two gradients gives their difference away. The answer has the gradients' formats.

    A tree without leaves, as an empty group of `optax.multi_transform` has, gets no session, and its updates do nothing. Under
    `optax.inject_hyperparams`, make the privatizer outside of the function that is wrapped, which is called for every trace.

    Args:
        noising_matrix: `C^-1`: a matrix of this package, a `Design`, which has one, or an array, lower triangular.
        stddev: The standard deviation of each `z_t[lane]`, in units of the sum of clipped gradients.
        client: Where the session is: a client, or a target of `noised.connect`. Unless given, `local:`; of `resume_from`,
            where the state says.
        source: `gaussian`: the noise of a step is fetched, the next step's while the gradients are computed. `privatize`: the
            gradients are sent, and noise leaves the server under a gradient alone.
        dtype: The format of the noise, which is added by JAX's rules of promotion and rounded to the gradients' format. Unless
            set, that of each gradient, and float32 for gradients of 16 bits. Of `privatize`, the format of the answer before
            that rounding; unless set, that of each gradient.
        id: As of `Client.create_session`, and so are `resume`, `horizon`, `precision`, `lookahead`, `noise_state`,
            `start_noise_over` and `fetch_ahead`.
        resume_from: What `Privatizer.state_bytes` or `Session.state` gave: go on with that session, at that step. Matrix,
            `stddev` and all else must be what it was made for.
        allow_divergence: Of `resume_from`, as of `Session.rewind`.
        noise_id: As of `noised.Gaussian`, and so is `noise_key`.
        shard: The part of the tree that this worker holds. `init` takes the whole tree, and `update` an array with one axis.

    Raises:
        InvalidArgumentError: Names the field at fault.
        UnavailableError: No server answers there.
    """
    if isinstance(stddev, jax.core.Tracer):
        raise InvalidArgumentError(
            field="stddev",
            rule="must be a number, found one that is traced: make the privatizer once, outside of what is traced or wrapped "
            "by optax.inject_hyperparams, which would make another, with a session of its own, for each trace",
        )
    matrix = _matrix_of(noising_matrix)
    name = None if dtype is None else dtype_name(dtype)
    if name == "f64" and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise InvalidArgumentError(
            field="dtype", rule="is f64, which JAX has with jax_enable_x64 alone: switch it on, or use f32"
        )
    made_for: Source
    if one_of("source", source, ("gaussian", "privatize")) == "gaussian":
        made_for = Gaussian(stddev, noise_id, noise_key, answer_dtype=name)
    else:
        made_for = Privatize(stddev, noise_id, noise_key, answer_dtype=name)
    place = client if isinstance(client, Client) else None if client is None else _client.connect(client)
    if resume_from is not None and (id or resume):
        raise InvalidArgumentError(
            field="resume_from", rule="must not be set beside id or resume: it names a session"
        )
    made_for = checked_source(made_for)
    shard = None if shard is None else checked_shard(shard)
    ahead = flag("fetch_ahead", fetch_ahead)
    options = checked(
        {
            "precision": precision,
            "horizon": horizon,
            "lookahead": lookahead,
            "noise_state": noise_state,
            "start_noise_over": start_noise_over,
        }
    )
    if resume_from is None:
        options |= checked({"id": id, "resume": resume, "fetch_ahead": ahead})
        opening: New | Old = New(place or _client.connect(), matrix, made_for, shard, options)
    else:
        diverge = flag("allow_divergence", allow_divergence)
        opening = Old(place, matrix, made_for, shard, options, resume_from, diverge, ahead)
    return Privatizer(Steps(opening, None if name is None else numpy_dtype(name), shard))


#: The name that it has in jax_privacy.
matrix_factorization_privatizer = privatizer


def gaussian_privatizer(*, stddev: float, **options: Any) -> Privatizer:
    """`privatizer` of independent noise. Takes the same options."""
    return privatizer(identity(), stddev=stddev, **options)


def shard(cut: Cut = "lanes") -> Shard:
    """The part of a tree that this process holds, of all processes of `jax.distributed`.

    Args:
        cut: As of `noised.Shard`.
    """
    return Shard(jax.process_index(), jax.process_count(), cut)


def _matrix_of(noising_matrix: StreamingMatrix | Design | ArrayLike) -> StreamingMatrix:
    if isinstance(noising_matrix, (StreamingMatrix, Design, Recommendation, BufferedToeplitz, type(None))):
        return noising_matrix_of(noising_matrix)
    if hasattr(noising_matrix, "multiply_next"):
        raise InvalidArgumentError(
            field="noising_matrix",
            rule=f"must be a matrix of this package, found {type(noising_matrix).__name__}: make it with the function of the "
            "same name in noised",
        )
    return dense(floats("noising_matrix", noising_matrix))
