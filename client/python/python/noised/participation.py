"""Which steps one user's data may take part in."""

from __future__ import annotations

from dataclasses import dataclass

from noised.errors import InvalidArgumentError


@dataclass(frozen=True)
class Participation:
    """A participation pattern. Without any attribute: in one step at most.

    Attributes:
        min_sep: In steps at least so far apart (arXiv 2306.08153); 1 where only `max_participations` is set.
        max_participations: At most so often; as often as fits unless set.
        epochs: In each of so many passes over the data, exactly `n / epochs` steps apart (arXiv 2211.06530).
    """

    min_sep: int | None = None
    max_participations: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and (self.min_sep is not None or self.max_participations is not None):
            raise InvalidArgumentError(
                field="epochs", rule="must not be set beside min_sep or max_participations"
            )
