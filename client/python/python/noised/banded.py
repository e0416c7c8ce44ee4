"""Banded strategies whose columns have norm 1, each row with coefficients of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noised import _noised, design
from noised._check import floats, whole
from noised.errors import InvalidArgumentError
from noised.streaming_matrix import StreamingMatrix, numbers

if TYPE_CHECKING:
    from noised.client import Client


@dataclass(frozen=True, eq=False)
class ColumnNormalizedBanded:
    """A banded strategy for `n` steps, with columns of norm 1 (arXiv 2306.08153, 2405.15913).

    Attributes:
        params: `n x bands`, one row a column of the strategy, before it is normalised.
    """

    params: NDArray[np.float64]

    def __post_init__(self) -> None:
        params = floats("params", self.params)
        if params.ndim != 2:
            raise InvalidArgumentError(field="params", rule=f"must be n x bands, found shape {params.shape}")
        object.__setattr__(self, "params", params)
        self.as_streaming_matrix()

    @property
    def n(self) -> int:
        """Steps."""
        return int(self.params.shape[0])

    @property
    def bands(self) -> int:
        """Non-zero diagonals."""
        return int(self.params.shape[1])

    @classmethod
    def default(cls, n: int, bands: int) -> ColumnNormalizedBanded:
        """What optimisers start from."""
        made = _noised.column_normalized_banded(whole("n", n), whole("bands", bands))
        return cls(np.asarray(json.loads(made)["params"], np.float64))

    @classmethod
    def from_banded_toeplitz(cls, n: int, coef: ArrayLike) -> ColumnNormalizedBanded:
        """A Toeplitz strategy with its columns normalised."""
        row = np.asarray(numbers("coef", coef))
        try:
            return cls(np.tile(row, (whole("n", n), 1)))
        except (ValueError, MemoryError, OverflowError) as error:
            if isinstance(error, InvalidArgumentError):
                raise
            raise InvalidArgumentError(field="n", rule=f"must fit in memory, found {n}: {error}") from None

    def as_streaming_matrix(self) -> StreamingMatrix:
        """`C`. It ends at `n`."""
        return StreamingMatrix({"kind": "column_normalized_banded", "params": self.params.tolist()})

    def inverse_as_streaming_matrix(self) -> StreamingMatrix:
        """The noising matrix `C^-1`."""
        return self.as_streaming_matrix().inverse()

    def materialize(self) -> NDArray[np.float64]:
        """All of it."""
        return self.as_streaming_matrix().materialize(self.n)


def optimize(
    n: int,
    *,
    bands: int,
    A: StreamingMatrix | None = None,  # noqa: N803
    objective: design.Objective = "mean",
    client: Client | None = None,
) -> ColumnNormalizedBanded:
    """The best of them for one participation, or for several at least `bands` apart. `noised.optimize` tells what it
    achieves as well.

    Args:
        n: Steps.
        bands: Non-zero diagonals.
        A: The workload; the prefix sum unless given.
        objective: What is minimised: the `mean` of the squared errors, or the `max`.
        client: Where it is computed; in this process unless given.
    """
    found = design.optimize(
        "column_normalized_banded", n, bands=bands, objective=objective, workload=A, client=client
    )
    return ColumnNormalizedBanded(np.asarray(json.loads(found.strategy.to_json())["params"], np.float64))
