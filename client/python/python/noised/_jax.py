"""What stands behind `noised.jax`: the steps of a session, on the side of JAX and on that of the host."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import custom_batching, lax
from jax.experimental import io_callback
from numpy.typing import NDArray

from noised._leaves import ShapeDtype, dtype_name, numpy_dtype
from noised._options import SessionOptions
from noised._rounding import check_rounded, description_of
from noised._tree import difference, flatten, path_of
from noised.client import Client, resume
from noised.errors import CannotResumeError, FingerprintMismatchError, InvalidArgumentError, NoisedError
from noised.session import Session
from noised.sources import Input, Privatize, Shard, Source
from noised.streaming_matrix import StreamingMatrix

#: The longest argument of a callback on the processor. JAX copies those up to 100 KiB at once.
_PIECE_BYTES = 96 << 10
#: Pieces that one callback takes. A callback costs more than a piece.
_PIECES = 16


#: In place of a tree that nobody has given: a tree without leaves may be `None`.
_UNBOUND = object()


class PrivatizerState(NamedTuple):
    """What a privatizer keeps in the optimizer's state: a checkpoint holds it as it holds anything else.

    Attributes:
        step: The step that comes next, an int32.
    """

    step: jax.Array


class New(NamedTuple):
    """A session that is to be made."""

    client: Client
    matrix: StreamingMatrix
    source: Source
    shard: Shard | None
    options: SessionOptions

    def open(self, tree: Any) -> Session:
        return self.client.create_session(self.matrix, tree, self.source, shard=self.shard, **self.options)


class Old(NamedTuple):
    """A session that is to go on from a checkpoint."""

    client: Client | None
    matrix: StreamingMatrix
    source: Source
    shard: Shard | None
    options: SessionOptions
    state: bytes
    allow_divergence: bool
    fetch_ahead: bool

    def open(self, tree: Any) -> Session:
        session = resume(
            self.state,
            tree,
            client=self.client,
            allow_divergence=self.allow_divergence,
            fetch_ahead=self.fetch_ahead,
        )
        # The server compares all that the caller describes with what the session was made for: other noise than the
        # caller believes in must not go unnoticed.
        name = session.name
        identifier = name.removeprefix("sessions/")
        if len(session.client.targets) > 1:
            # The id of all shards, whose names end with their numbers.
            identifier = identifier.removesuffix("-0")
        try:
            options: SessionOptions = {**self.options, "id": identifier, "resume": True, "fetch_ahead": False}
            session.client.create_session(self.matrix, tree, self.source, shard=self.shard, **options).close()
        except FingerprintMismatchError as error:
            session.close()
            raise CannotResumeError(f"{name} was made for something else: {error}") from error
        return session


class Steps:
    """The steps of a session, as an optimizer asks for them."""

    def __init__(self, opening: New | Old, dtype: np.dtype[Any] | None, shard: Shard | None) -> None:
        self._opening = opening
        self._privatizes = isinstance(opening.source, Privatize)
        self._dtype = dtype
        self._is_shard = shard is not None
        self._lock = threading.RLock()
        self._tree: Any = _UNBOUND
        self._session: Session | None = None
        self._last: tuple[int, tuple[NDArray[Any], ...]] | None = None
        self._staging = _Staging()
        self.error: BaseException | None = None

    # On the side of JAX.

    def init(self, params: Any) -> PrivatizerState:
        self._bind(params)
        if self._is_empty:
            return PrivatizerState(jnp.asarray(0, jnp.int32))
        if _is_traced(jax.tree.leaves(params)):
            return PrivatizerState(io_callback(self._step_now, _shape((), jnp.int32)))
        return PrivatizerState(jnp.asarray(self._step_now()))

    def update(
        self, sum_of_clipped_grads: Any, noise_state: PrivatizerState, params: Any = None
    ) -> tuple[Any, PrivatizerState]:
        del params
        step = noise_state.step
        self._check(sum_of_clipped_grads)
        if self._is_empty:
            # A group of an optimizer may have no parameters, and then there is nothing that noise is drawn for.
            return sum_of_clipped_grads, PrivatizerState(jnp.asarray(step + 1))
        leaves, structure = jax.tree.flatten(sum_of_clipped_grads)
        # What comes from NumPy is as JAX has it from here on: without x64, a float64 is a float32.
        leaves = [leaf if isinstance(leaf, jax.Array) else _of_numpy(leaf) for leaf in leaves]
        if _is_traced([*leaves, step]):
            step, answers = self._take_in_callback(jnp.asarray(step), leaves)
        else:
            taken = self._take(int(step), leaves)
            shardings = [getattr(leaf, "sharding", None) for leaf in leaves]
            step, answers = jnp.asarray(step + 1), jax.device_put(list(taken), shardings)
        if not self._privatizes:
            answers = [leaf + noise for leaf, noise in zip(leaves, answers, strict=True)]
        noisy = [answer.astype(leaf.dtype) for answer, leaf in zip(answers, leaves, strict=True)]
        return jax.tree.unflatten(structure, noisy), PrivatizerState(step)

    @property
    def _is_empty(self) -> bool:
        """Whether there are no parameters: a step does nothing then, and there is no session."""
        return self._tree is not _UNBOUND and not jax.tree.leaves(self._tree)

    # The callbacks are not `ordered`: one that failed would leave JAX with a token on which every later one fails, in this
    # program and in others. What orders them is that each gives the step that the next one takes.
    #
    # A callback gets its arguments as arrays of JAX, and long ones are copied into them in the background, by the threads
    # that run callbacks as well. Where those are all taken, as the only one of a machine with one core is, a callback that
    # waits for its argument waits for ever. Noise that is fetched takes no argument but the step; and gradients that are
    # sent go to the host in pieces so short that JAX copies them at once. On other devices than the processor, callbacks
    # run on threads that copy nothing.

    def _take_in_callback(self, step: jax.Array, leaves: list[Any]) -> tuple[jax.Array, list[Any]]:
        following = _shape((), step.dtype)
        shapes = [_shape(leaf.shape, self._answer_dtype(leaf.dtype)) for leaf in leaves]
        if not self._privatizes:

            def ask(step: jax.Array) -> Any:
                return io_callback(self._noise_of, (following, shapes), step)

            return _under_one(ask)(step, leaves)  # type: ignore[no-any-return]
        in_pieces = [jax.default_backend() == "cpu" and _is_long(leaf) for leaf in leaves]
        staged = step
        for index, (leaf, cut) in enumerate(zip(leaves, in_pieces, strict=True)):
            if cut:
                staged = self._stage(staged, index, leaf)
        whole = [leaf for leaf, cut in zip(leaves, in_pieces, strict=True) if not cut]
        taken = io_callback(self._privatized, (following, shapes), staged, tuple(in_pieces), whole)
        return taken  # type: ignore[no-any-return]

    def _stage(self, step: jax.Array, index: int, leaf: jax.Array) -> jax.Array:
        flat = leaf.reshape(-1)
        length = _PIECE_BYTES // flat.dtype.itemsize
        count = min(_PIECES, flat.size // length)

        def put(group: jax.Array, step: jax.Array) -> Any:
            # The last group ends where the leaf does, and repeats a part of the one before.
            first = jnp.minimum(group * count * length, flat.size - count * length)
            pieces = [lax.dynamic_slice(flat, (first + i * length,), (length,)) for i in range(count)]
            facts = jnp.stack([jnp.asarray(x, jnp.int32) for x in (step, index, flat.size, first)])
            return io_callback(self._put, _shape((), jnp.int32), facts, pieces).astype(step.dtype)

        return jnp.asarray(lax.fori_loop(0, -(-flat.size // (count * length)), put, step))

    # On the side of the host.

    def _step_now(self) -> NDArray[np.int32]:
        with self._keeping_errors():
            return np.asarray(self.open().step, np.int32)

    def _noise_of(self, step: Any) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        with self._keeping_errors():
            step = np.asarray(step)
            return step + step.dtype.type(1), list(self._take(int(step), []))

    def _put(self, facts: Any, pieces: Any) -> NDArray[np.int32]:
        with self._keeping_errors():
            step, index, size, first = np.asarray(facts)
            self._staging.put(int(step), int(index), int(size), int(first), [np.asarray(x) for x in pieces])
            return np.asarray(step)

    def _privatized(self, step: Any, in_pieces: Any, whole: Any) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        with self._keeping_errors():
            step = np.asarray(step)
            rest = iter(whole)
            indices = [index for index, cut in enumerate(in_pieces) if bool(cut)]
            staged = self._staging.take(int(step), indices)
            leaves = [staged[i] if i in staged else np.asarray(next(rest)) for i in range(len(in_pieces))]
            return step + step.dtype.type(1), list(self._take(int(step), leaves))

    def _take(self, step: int, leaves: list[Any]) -> tuple[NDArray[Any], ...]:
        with self._lock:
            session = self.open()
            if self._privatizes:
                # Where the leaves came in pieces, each is flat.
                tree = self._rebuilt(leaves)
                return tuple(jax.tree.leaves(session.privatize(tree, step)))
            # The step after it is fetched already, so the server would not answer this one again.
            if self._last is not None and self._last[0] == step == session.step - 1:
                return self._last[1]
            noise = tuple(jax.tree.leaves(session.fetch(step)))
            self._last = (step, noise)
            return noise

    def _rebuilt(self, leaves: list[Any]) -> Any:
        if self._is_shard:
            return leaves[0]
        specs, structure = jax.tree.flatten(self._tree)
        shaped = [leaf.reshape(spec.shape) for leaf, spec in zip(leaves, specs, strict=True)]
        return jax.tree.unflatten(structure, shaped)

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
            self.error = None
        except BaseException as error:
            self.error = error
            raise

    # The session.

    def open(self) -> Session:
        with self._lock:
            if self._session is None:
                if self._tree is _UNBOUND:
                    raise InvalidArgumentError(
                        field="params", rule="must have been given to init: there is no session yet"
                    )
                if self._is_empty:
                    raise InvalidArgumentError(
                        field="params",
                        rule="has no leaves, so that there is no session: no noise is drawn for it",
                    )
                self._session = self._opening.open(self._tree)
                # A program as one writes it for jax_privacy closes nothing.
                atexit.register(_close_at_exit, weakref.ref(self))
            return self._session

    def close(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close()

    def raise_kept(self, told: Exception) -> None:
        """Raises the error that `told` stands for, where it does."""
        error, self.error = self.error, None
        if error is not None and type(error).__name__ in str(told):
            raise error from told
        if "KeyboardInterrupt" in str(told):
            # It came while JAX called back, and not while a step was waited for.
            raise KeyboardInterrupt from told

    def _bind(self, params: Any) -> None:
        tree = self._specs(params)
        if self._tree is not _UNBOUND:
            self._compare(tree)
        else:
            self._check_range(params)
        self._tree = tree

    def _check_range(self, params: Any) -> None:
        """Sees that the sum fits the gradients' formats, to which it is rounded."""
        source, options = self._opening.source, self._opening.options
        if isinstance(source, Input):
            return
        # JAX does not know the formats of PyTorch, which `_specs` takes.
        given = [
            numpy_dtype(dtype_name(leaf.dtype)) for leaf in jax.tree.leaves(params) if hasattr(leaf, "dtype")
        ]
        found = [numpy_dtype(dtype_name(jax.dtypes.canonicalize_dtype(dtype))) for dtype in given]
        check_rounded(
            ((dtype_name(dtype), dtype_name(self._answer_dtype(dtype))) for dtype in found),
            lambda: description_of(self._opening.matrix, source.stddev, options),
        )

    def _specs(self, tree: Any) -> Any:
        """The shapes and formats of a tree's leaves."""
        try:
            return jax.tree_util.tree_map_with_path(self._spec, tree)
        except InvalidArgumentError:
            raise
        except (ValueError, TypeError, RecursionError) as error:
            # Keys that cannot be sorted, and the like.
            raise InvalidArgumentError(
                field="tree", rule=f"must be one that JAX takes apart: {error}"
            ) from error

    def _spec(self, keys: tuple[Any, ...], leaf: Any) -> ShapeDtype:
        field = f"tree.{path_of(keys)}"
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            try:
                leaf = jnp.asarray(leaf)
            except (TypeError, ValueError, OverflowError):
                raise InvalidArgumentError(
                    field=field, rule=f"must be an array, found {type(leaf).__name__}"
                ) from None
        # A key of random numbers, or a counter, is no parameter that noise is for.
        found = numpy_dtype(dtype_name(leaf.dtype, field))
        # The server rounds noise to the format that it is asked for; a gradient is sent as it is.
        dtype = found if self._privatizes else self._answer_dtype(found)
        # Without x64, JAX makes a float32 of a float64 of NumPy's, and so are the gradients.
        return ShapeDtype(tuple(leaf.shape), np.dtype(jax.dtypes.canonicalize_dtype(dtype)))

    def _answer_dtype(self, dtype: Any) -> Any:
        if self._dtype is not None:
            return self._dtype
        # As `Gaussian.answer_dtype` has it: noise of 16 bits does not cover the digits of the sum.
        is_short = jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize == 2
        return np.dtype(np.float32) if is_short and not self._privatizes else dtype

    def _check(self, gradients: Any) -> None:
        if not self._is_shard:
            if self._tree is _UNBOUND:
                # Nothing says that `init` must be called with more than shapes, or at all, before a run goes on.
                self._bind(gradients)
            self._compare(self._specs(gradients))
            return
        lanes = len(self.open().lanes)
        if getattr(gradients, "shape", None) != (lanes,):
            raise InvalidArgumentError(
                field="sum_of_clipped_grads",
                rule=f"must be this worker's {lanes} lanes, an array with one axis, found "
                f"{getattr(gradients, 'shape', type(gradients).__name__)}",
            )

    def _compare(self, tree: Any) -> None:
        bound, _ = flatten(self._tree)
        given, _ = flatten(tree)
        expected, paths = [path for path, _ in bound], [path for path, _ in given]
        if expected != paths:
            rule = difference(expected, paths, "the privatizer was begun with")
            raise InvalidArgumentError(field="tree", rule=rule)
        for (path, spec), (_, found) in zip(bound, given, strict=True):
            if spec != found:
                raise InvalidArgumentError(
                    field=f"tree.{path}",
                    rule=f"must be {spec}, as when the privatizer was begun, found {found}",
                )


def _close_at_exit(steps: weakref.ref[Steps]) -> None:
    left = steps()
    # Where the last thing that was heard is that the server is away, the program need not wait for it.
    if left is not None and not isinstance(left.error, ConnectionError):
        with contextlib.suppress(Exception):
            left.close()


class _Staging:
    """Gradients that come to the host in pieces."""

    def __init__(self) -> None:
        self._leaves: dict[int, NDArray[Any]] = {}
        self._come: dict[int, int] = {}
        self._step = -1

    def put(self, step: int, index: int, size: int, first: int, pieces: list[NDArray[Any]]) -> None:
        """Takes pieces of a leaf, one after the other from lane `first` on."""
        if first == 0:
            # What came of an update that broke off is of no use.
            self._come[index] = 0
        if index not in self._leaves:
            self._leaves[index] = np.empty(size, pieces[0].dtype)
        for piece in pieces:
            self._leaves[index][first : first + piece.size] = piece
            first += piece.size
            self._come[index] += piece.size
        self._step = step

    def take(self, step: int, indices: list[int]) -> dict[int, NDArray[Any]]:
        """The leaves of a step, all of whose pieces have come."""
        for index in indices:
            # The last pieces repeat some lanes, but by far not a leaf.
            size, come = self._leaves[index].size, self._come[index]
            if self._step != step or not size <= come < 2 * size:
                raise NoisedError("two updates ran at once: a privatizer serves one training loop")
            self._come[index] = 0
        return {index: self._leaves[index] for index in indices}


def _under_one(ask: Callable[[jax.Array], Any]) -> Any:
    """A call for noise that is to be added to one gradient: `vmap` would add one noise to many, and is refused."""

    @custom_batching.custom_vmap
    def asked(step: jax.Array, leaves: list[Any]) -> Any:
        # The gradients are an argument for this alone: that JAX sees whether there are many.
        del leaves
        return ask(step)

    @asked.def_vmap
    def _(*_: Any) -> Any:
        raise InvalidArgumentError(
            field="sum_of_clipped_grads",
            rule="must not be batched by vmap: one noise under several gradients gives their differences away",
        )

    return asked


def _of_numpy(leaf: Any) -> jax.Array:
    """An array of NumPy as one of JAX, which knows the machine's own order of bytes alone."""
    array = np.asarray(leaf)
    return jnp.asarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _is_long(leaf: jax.Array) -> bool:
    # An index must fit an int32, beyond which a leaf goes as it is.
    return leaf.size * leaf.dtype.itemsize > _PIECE_BYTES and leaf.size < 1 << 30


def _shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def _is_traced(leaves: list[Any]) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
