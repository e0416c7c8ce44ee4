"""What is closed at the end of a `with` block."""

from __future__ import annotations

from types import TracebackType
from typing import Any, SupportsIndex, TypeVar

from noised.errors import CannotPickleError

S = TypeVar("S", bound="Closing")


class Unpicklable:
    """What stays in its process: a copy of it elsewhere would take the same steps."""

    #: What to do in place of pickling it.
    _elsewhere = ""

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        raise CannotPickleError(f"a {type(self).__name__} cannot be pickled or copied: {self._elsewhere}")


class Closing(Unpicklable):
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
