"""Memory for answers that is used again: fresh memory costs more than the network."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

#: Smaller answers are cheaper to allocate than to keep track of.
_SMALL = 1 << 18
#: Answers begin where JAX can take them as they lie.
_ALIGNMENT = 64
#: Buffers that wait for their next use.
_SPARE = 3


class Pool:
    """Buffers of one size. One that was handed out comes back once no array that shares it is alive."""

    def __init__(self, size: int) -> None:
        self._size = size
        # Its operations are atomic: buffers come back from wherever Python lets go of an array, in the middle of anything.
        self._spare: deque[NDArray[np.uint8]] = deque(maxlen=_SPARE)

    def take(self) -> NDArray[np.uint8]:
        """A buffer, whose bytes are anything."""
        if self._size < _SMALL:
            return np.empty(self._size, np.uint8)
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = self._allocate()
        # Views of views refer to the array that owns no memory itself but holds on to a memoryview: this one. So it
        # lives as long as any of them, and the memory is free when it dies.
        buffer: NDArray[np.uint8] = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(buffer, self._spare.append, memory).atexit = False
        return buffer

    def _allocate(self) -> NDArray[np.uint8]:
        memory = np.empty(self._size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        return memory[start : start + self._size]
