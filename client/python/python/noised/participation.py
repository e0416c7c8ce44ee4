"""Which steps one user's data may take part in."""

from __future__ import annotations

from dataclasses import dataclass

from noised._check import maybe_whole
from noised.errors import InvalidArgumentError


@dataclass(frozen=True)
class Participation:
    """A participation pattern. Without any attribute: in one step at most.

    Attributes:
        min_sep: In steps at least so far apart (arXiv 2306.08153); 1 where only `max_participations` is set.
        max_participations: At most so often; as often as fits unless set.
        epochs: In each of so many passes over the data, exactly `n / epochs` steps apart (arXiv 2211.06530).

    Raises:
        InvalidArgumentError: One is no whole number (8.0 is one), or `epochs` is set beside another.
    """

    min_sep: int | None = None
    max_participations: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_sep", "max_participations", "epochs"):
            object.__setattr__(self, name, maybe_whole(name, getattr(self, name)))
        if self.epochs is not None and (self.min_sep is not None or self.max_participations is not None):
            raise InvalidArgumentError(
                field="epochs", rule="must not be set beside min_sep or max_participations"
            )
