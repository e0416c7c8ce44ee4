"""Buffered linear Toeplitz matrices (BLTs): Toeplitz, with coefficients that are sums of a few decaying exponentials."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noised import _noised, design
from noised._check import floats, one_of, real, whole
from noised.errors import InvalidArgumentError
from noised.participation import Participation
from noised.streaming_matrix import StreamingMatrix, numbers

if TYPE_CHECKING:
    from noised.client import Client


@dataclass(frozen=True, eq=False)
class BufferedToeplitz:
    """The strategy with `c_0 = 1` and `c_t = sum_k w_k theta_k^(t-1)` (arXiv 2404.16706, 2408.08868).

    Attributes:
        buf_decay: `theta_k`, each in `(0, 1]`.
        output_scale: `w_k`, one a buffer.
    """

    buf_decay: NDArray[np.float64]
    output_scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "buf_decay", np.asarray(numbers("buf_decay", self.buf_decay)))
        object.__setattr__(self, "output_scale", np.asarray(numbers("output_scale", self.output_scale)))
        self.as_streaming_matrix()

    @classmethod
    def build(cls, buf_decay: ArrayLike, output_scale: ArrayLike) -> BufferedToeplitz:
        """A BLT of these decays and scales."""
        return cls(floats("buf_decay", buf_decay), floats("output_scale", output_scale))

    @classmethod
    def from_rational_approx_to_sqrt_x(cls, num_buffers: int) -> BufferedToeplitz:
        """The BLT of a rational approximation of `1 / sqrt(1 - x)` (arXiv 2404.16706, Proposition 4.5)."""
        spec = json.loads(_noised.blt_from_rational_approximation(whole("num_buffers", num_buffers)))
        return cls.build(spec["buf_decay"], spec["output_scale"])

    def as_streaming_matrix(self) -> StreamingMatrix:
        """`C` (arXiv 2408.08868, Algorithm 2)."""
        decay, scale = self.buf_decay.tolist(), self.output_scale.tolist()
        return StreamingMatrix({"kind": "buffered_toeplitz", "buf_decay": decay, "output_scale": scale})

    def inverse_as_streaming_matrix(self) -> StreamingMatrix:
        """The noising matrix `C^-1` (arXiv 2408.08868, Algorithm 3)."""
        return self.as_streaming_matrix().inverse()

    def toeplitz_coefs(self, n: int) -> NDArray[np.float64]:
        """The first `n` coefficients."""
        found = _noised.toeplitz_coefs(self.as_streaming_matrix().to_json(), whole("n", n))
        return np.asarray(found, np.float64)

    def materialize(self, n: int) -> NDArray[np.float64]:
        """The leading `n x n` block."""
        return self.as_streaming_matrix().materialize(n)


def optimize(
    *,
    n: int,
    min_sep: int = 1,
    max_participations: int | None = 1,
    error: design.Objective = "max",
    min_buffers: int = 1,
    max_buffers: int = 10,
    rtol: float = 1.01,
    client: Client | None = None,
) -> BufferedToeplitz:
    """The best BLT for the prefix sum. `noised.optimize` tells what it achieves as well, and knows other workloads.

    Args:
        n: Steps.
        min_sep: One user takes part in steps at least so far apart.
        max_participations: One user takes part at most so often; as often as fits where it is `None`.
        error: What is minimised times the squared sensitivity: the `max` of the squared errors, or the `mean`.
        min_buffers: The fewest buffers; 0 is taken as 1.
        max_buffers: The most.
        rtol: One buffer more has to make the loss less by this factor.
        client: Where it is computed; in this process unless given.
    """
    min_buffers, max_buffers = whole("min_buffers", min_buffers), whole("max_buffers", max_buffers)
    one_of("error", error, get_args(design.Objective))
    rtol = real("rtol", rtol)
    if not 0 <= min_buffers <= max_buffers or max_buffers == 0:
        raise InvalidArgumentError(
            field="min_buffers", rule=f"must be at most max_buffers, which is at least 1; found {min_buffers}"
        )
    pattern = Participation(min_sep=min_sep, max_participations=max_participations)
    best = None
    for buffers in range(max(min_buffers, 1), max_buffers + 1):
        found = design.optimize(
            "buffered_toeplitz", n, buffers=buffers, participation=pattern, objective=error, client=client
        )
        if best is not None and found.loss * rtol >= best.loss:
            break
        best = found
    assert best is not None
    spec = json.loads(best.strategy.to_json())
    return BufferedToeplitz.build(spec["buf_decay"], spec["output_scale"])
