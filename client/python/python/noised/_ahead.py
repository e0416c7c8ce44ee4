"""One step fetched ahead, in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from noised import _noised
from noised._pool import Pool


@dataclass
class _Request:
    """A step that was asked for."""

    step: int
    token: _noised.CancelToken = field(default_factory=_noised.CancelToken)
    answer: Future[NDArray[np.uint8]] = field(default_factory=Future)
    #: Whether it is sure to be in the queue: a Ctrl-C may come between any two instructions.
    is_queued: bool = False


class _Mailbox:
    """What the two threads share. It outlives neither: the thread does not keep the session's handle alive."""

    def __init__(self) -> None:
        self.work: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self.request: _Request | None = None

    def close(self) -> None:
        """Ends the thread, and calls off what it does."""
        if self.request is not None:
            self.request.token.cancel()
        self.work.put(None)


class Ahead:
    """Fetches the step after the one that was handed out, so that its noise is there when it is wanted."""

    def __init__(self, native: _noised.Session, pool: Pool) -> None:
        self._native = native
        self._pool = pool
        self._mailbox = _Mailbox()
        self._thread: threading.Thread | None = None
        # A thread that waits for a server must not keep the program from ending.
        weakref.finalize(self, self._mailbox.close)

    @property
    def pending(self) -> int | None:
        """The step that was asked for and is not handed out."""
        request = self._mailbox.request
        return None if request is None else request.step

    def begin(self, step: int) -> None:
        """Asks for a step."""
        if self._thread is None:
            arguments = (self._native, self._pool, self._mailbox)
            thread = threading.Thread(target=_run, args=arguments, name="noised-ahead", daemon=True)
            thread.start()
            self._thread = thread
        self._mailbox.request = _Request(step)
        self._queue(self._mailbox.request)

    def _queue(self, request: _Request) -> None:
        self._mailbox.work.put(request)
        request.is_queued = True

    def take(self, step: int) -> NDArray[np.uint8] | None:
        """The bytes of a step, where it was asked for and nothing went wrong."""
        request = self._mailbox.request
        if request is None or request.step != step:
            return None
        if not request.is_queued:
            # Once too often does no harm.
            self._queue(request)
        data = None
        # A Ctrl-C ends this wait, and the next call waits for the same answer. Of any other fault, the call that comes is
        # told in the thread that makes it.
        with contextlib.suppress(Exception):
            data = request.answer.result()
        self._mailbox.request = None
        return data

    def call_off(self) -> None:
        """Calls off what is under way, from whichever thread."""
        request = self._mailbox.request
        if request is not None:
            request.token.cancel()

    def stop(self) -> BaseException | None:
        """Calls off what is under way, waits until it is, and tells what it failed with."""
        request = self._mailbox.request
        failure = None
        if request is not None:
            request.token.cancel()
            if not request.is_queued:
                self._queue(request)
            failure = request.answer.exception()
        self._mailbox.request = None
        return failure


def _run(native: _noised.Session, pool: Pool, mailbox: _Mailbox) -> None:
    while (request := mailbox.work.get()) is not None:
        _fetch(native, pool, request)
        # The thread waits for its next step now, and must not hold on to the memory of the last.
        del request


def _fetch(native: _noised.Session, pool: Pool, request: _Request) -> None:
    if request.answer.done():
        return
    try:
        data = pool.take()
        native.take(request.step, None, data, request.token)
    except BaseException as error:
        request.answer.set_exception(error)
    else:
        request.answer.set_result(data)
