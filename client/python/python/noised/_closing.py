"""What is closed at the end of a `with` block."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

S = TypeVar("S", bound="Closing")


class Closing:
    """A context manager of what has `close`."""

    def close(self) -> None:
        """Lets go of it."""
        raise NotImplementedError

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception:
            # What went wrong inside is what is told.
            if error is None:
                raise
