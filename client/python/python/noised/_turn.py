"""Whose turn it is to use a session: one call at a time, and none from within another."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from types import FrameType, TracebackType

from noised.errors import ForkedError, ReentrantCallError


class Turn:
    """Entered by every call that changes a session. Other threads wait for their turn.

    A Ctrl-C may come between any two instructions, also where a turn is entered or left. So a turn counts as taken while the
    call that took it is on the stack of its thread, whatever is noted here.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._call: FrameType | None = None
        self._process = os.getpid()

    def __enter__(self) -> None:
        if os.getpid() != self._process:
            # What the threads of the parent hold here is held for ever, and both would draw one noise.
            raise ForkedError("the process was forked after it made the session")
        call = sys._getframe(1)
        self._lock.acquire()
        if self._call is not None and _is_below(self._call, call):
            # The same thread: a handler of a signal, or a callback.
            self._lock.release()
            raise ReentrantCallError("a call of the session is under way in this thread")
        self._call = call

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call = None
        # As often as this thread holds it: a call that was interrupted as it entered did not release it.
        with contextlib.suppress(RuntimeError):
            while True:
                self._lock.release()


def _is_below(call: FrameType, frame: FrameType | None) -> bool:
    """Whether a call is on the stack that ends with `frame`."""
    while frame is not None and frame is not call:
        frame = frame.f_back
    return frame is not None
