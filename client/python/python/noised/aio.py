"""The same for asyncio: every call that waits is a coroutine.

    client = await noised.aio.connect("localhost:7467")
    async with await client.create_session(noising_matrix, params, noised.Gaussian(stddev=2.0)) as session:
        noise = await session.fetch()

A task that is cancelled calls off the step that it waited for, and waits until that has ended; any other call is waited for
to its end. Nothing is lost by it: a step whose answer came too late is the one that is handed out next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from noised import _noised
from noised import client as blocking
from noised._check import is_a
from noised._closing import Unpicklable
from noised._info import SessionInfo
from noised._options import NoiseState
from noised.session import Session
from noised.sources import Cut, Shard, Source
from noised.streaming_matrix import StreamingMatrix
from noised.tls import Tls

T = TypeVar("T")


async def _in_thread(
    call: Callable[[], T],
    *,
    call_off: Callable[[], None] = lambda: None,
    on_lost: Callable[[T], object] = lambda answer: None,
) -> T:
    """Makes a call in a thread of its own. Of a cancelled task, it is called off and waited for; where it succeeds all the
    same, `on_lost` gets what nobody waits for any more."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            answer = call()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(answer)

    threading.Thread(target=run, name="noised-aio", daemon=True).start()
    waited = asyncio.wrap_future(done)
    try:
        return await asyncio.shield(waited)
    except asyncio.CancelledError:
        call_off()
        while not waited.done():
            # Cancelled once more, it still waits: the thread uses the session.
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.shield(waited)
        if waited.exception() is None:
            on_lost(waited.result())
        raise


class AsyncSession(Unpicklable):
    """A `Session` whose calls are coroutines. They mean what those of `Session` mean; one step is under way at a time."""

    _elsewhere = Session._elsewhere

    def __init__(self, session: Session) -> None:
        self._session = session
        self._turn = asyncio.Lock()
        #: A step that was fetched for a task that was cancelled meanwhile.
        self._kept: tuple[int, Any] | None = None

    @property
    def blocking(self) -> Session:
        """The same session, for code that waits: its name, horizon and lanes."""
        return self._session

    @property
    def step(self) -> int:
        """The step that comes next."""
        return self._session.step if self._kept is None else self._kept[0]

    async def multiply_next(self, tree: Any, step: int | None = None) -> Any:
        """As `Session.multiply_next`."""
        async with self._turn:
            return await self._take(lambda: self._session.multiply_next(tree, step))

    async def privatize(self, gradients: Any, step: int | None = None) -> Any:
        """As `Session.privatize`."""
        async with self._turn:
            return await self._take(lambda: self._session.privatize(gradients, step))

    async def fetch(self, step: int | None = None) -> Any:
        """As `Session.fetch`."""
        async with self._turn:
            kept = self._kept
            if kept is not None and step in (None, kept[0]):
                self._kept = None
                return kept[1]
            answer = await self._take(lambda: self._session.fetch(step), keep=True)
            self._kept = None
            return answer

    async def _take(self, call: Callable[[], Any], *, keep: bool = False) -> Any:
        def on_lost(answer: Any) -> None:
            step = self._session.step - 1
            if keep:
                self._kept = (step, answer)
            else:
                # The same input is answered again, and only the same.
                self._session._uncount(step)

        self._session._cancel = _noised.CancelToken()
        try:
            return await _in_thread(call, call_off=self._session._call_off, on_lost=on_lost)
        finally:
            self._session._cancel = None

    async def state(self) -> bytes:
        """As `Session.state`."""
        async with self._turn:
            self._put_back()
            return await _in_thread(self._session.state)

    def _put_back(self) -> None:
        """Has the session itself hand out the step that is kept here."""
        if self._kept is not None:
            self._session._uncount(self._kept[0])
            self._kept = None

    async def info(self) -> list[SessionInfo]:
        """As `Session.info`."""
        async with self._turn:
            return await _in_thread(self._session.info)

    async def rewind(self, step: int, *, allow_divergence: bool = False) -> None:
        """As `Session.rewind`."""
        async with self._turn:
            await _in_thread(lambda: self._session.rewind(step, allow_divergence=allow_divergence))
            self._kept = None

    async def refresh(self) -> None:
        """As `Session.refresh`."""
        async with self._turn:
            await _in_thread(self._session.refresh)

    async def close(self) -> None:
        """As `Session.close`."""
        async with self._turn:
            self._put_back()
            await _in_thread(self._session.close)

    async def delete(self) -> None:
        """As `Session.delete`."""
        async with self._turn:
            await _in_thread(self._session.delete)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except Exception:
            # What went wrong inside is what is told.
            if error is None:
                raise


class AsyncClient:
    """A `Client` whose calls are coroutines."""

    def __init__(self, client: blocking.Client) -> None:
        self._client = client

    @property
    def blocking(self) -> blocking.Client:
        """The same client, for code that waits."""
        return self._client

    async def create_session(
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
    ) -> AsyncSession:
        """As `Client.create_session`."""

        def call() -> Session:
            return self._client.create_session(
                matrix,
                tree,
                source,
                id=id,
                resume=resume,
                shard=shard,
                cut=cut,
                precision=precision,
                horizon=horizon,
                lookahead=lookahead,
                noise_state=noise_state,
                start_noise_over=start_noise_over,
                fetch_ahead=fetch_ahead,
            )

        return AsyncSession(await _in_thread(call, on_lost=Session.close))

    async def open_session(
        self, name: str | Sequence[str], tree: Any = None, *, fetch_ahead: bool = True
    ) -> AsyncSession:
        """As `Client.open_session`."""

        def call() -> Session:
            return self._client.open_session(name, tree, fetch_ahead=fetch_ahead)

        return AsyncSession(await _in_thread(call, on_lost=Session.close))

    async def get_session(self, name: str) -> SessionInfo:
        """As `Client.get_session`."""
        return await _in_thread(lambda: self._client.get_session(name))

    async def list_sessions(self) -> list[SessionInfo]:
        """As `Client.list_sessions`."""
        return await _in_thread(self._client.list_sessions)

    async def delete_session(self, name: str | Sequence[str]) -> None:
        """As `Client.delete_session`."""
        await _in_thread(lambda: self._client.delete_session(name))


async def connect(
    target: str | Sequence[str] = "local:",
    *,
    patience: float = 60.0,
    master_key: bytes | None = None,
    tls: Tls | None = None,
    token: str | os.PathLike[str] | None = None,
    insecure: bool = False,
) -> AsyncClient:
    """As `noised.connect`."""

    def call() -> blocking.Client:
        return blocking.connect(
            target, patience=patience, master_key=master_key, tls=tls, token=token, insecure=insecure
        )

    return AsyncClient(await _in_thread(call))


async def resume(
    state: bytes,
    tree: Any = None,
    *,
    client: AsyncClient | None = None,
    allow_divergence: bool = False,
    fetch_ahead: bool = True,
) -> AsyncSession:
    """As `noised.resume`."""

    def call() -> Session:
        return blocking.resume(
            state,
            tree,
            client=None if client is None else is_a("client", client, AsyncClient, "an AsyncClient").blocking,
            allow_divergence=allow_divergence,
            fetch_ahead=fetch_ahead,
        )

    return AsyncSession(await _in_thread(call, on_lost=Session.close))
