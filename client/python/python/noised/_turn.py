"""Whose turn it is to use a session: one call at a time, and none from within another."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from noised.errors import ForkedError, ReentrantCallError


class Turn:
    """Entered by every call that changes a session. Other threads wait for their turn."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_taken = False
        self._process = os.getpid()

    def __enter__(self) -> None:
        if os.getpid() != self._process:
            # What the threads of the parent hold here is held for ever, and both would draw one noise.
            raise ForkedError("the process was forked after it made the session")
        self._lock.acquire()
        if self._is_taken:
            # The same thread: a handler of a signal, or a callback.
            self._lock.release()
            raise ReentrantCallError("a call of the session is under way in this thread")
        self._is_taken = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_taken = False
        self._lock.release()
