"""Toeplitz matrices: constant along every diagonal, with so many bands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noised import _noised
from noised._check import real, whole
from noised.design import Objective, optimize
from noised.errors import InvalidArgumentError
from noised.streaming_matrix import StreamingMatrix, numbers

if TYPE_CHECKING:
    from noised.client import Client


def matrix(coef: ArrayLike, column_normalize_for_n: int | None = None) -> StreamingMatrix:
    """The matrix `C` with `y_t = sum_j c_j x_{t-j}`.

    Args:
        coef: `c_0, c_1, ...`: the first column, without the zeros that follow.
        column_normalize_for_n: Divide each of the first `n` columns by its norm over `n` rows; the matrix then ends at `n`.
    """
    spec: dict[str, Any] = {"kind": "toeplitz", "coef": numbers("coef", coef)}
    if column_normalize_for_n is not None:
        spec["column_normalize_for_n"] = whole("column_normalize_for_n", column_normalize_for_n)
    return StreamingMatrix(spec)


def inverse(coef: ArrayLike, column_normalize_for_n: int | None = None) -> StreamingMatrix:
    """The noising matrix `C^-1` of a banded Toeplitz strategy (arXiv 2306.08153, Algorithm 9)."""
    return matrix(coef, column_normalize_for_n).inverse()


def inverse_as_streaming_matrix(
    coef: ArrayLike, column_normalize_for_n: int | None = None
) -> StreamingMatrix:
    """`inverse`, under the name that it has in jax_privacy."""
    return inverse(coef, column_normalize_for_n)


def optimal_max_error_strategy_coefs(n: int) -> NDArray[np.float64]:
    """The coefficients of the square root of the prefix sum, optimal among Toeplitz strategies for the largest error of one
    participation (arXiv 2202.11205)."""
    return _coef(_noised.optimal_max_error(whole("n", n)))


def optimal_max_error_noising_coefs(n: int) -> NDArray[np.float64]:
    """The coefficients of its inverse."""
    return inverse_coef(optimal_max_error_strategy_coefs(n), n)


def banded_square_root_coefs(bands: int, workload: ArrayLike | None = None) -> NDArray[np.float64]:
    """The first coefficients of the square root of a Toeplitz workload, the prefix sum unless given (arXiv 2405.13763)."""
    values = None if workload is None else numbers("workload", workload)
    return _coef(_noised.banded_square_root(whole("bands", bands), values))


def banded_inverse_square_root(bands: int, workload: ArrayLike | None = None) -> StreamingMatrix:
    """The strategy whose noising matrix has the first coefficients of the inverse square root (arXiv 2505.12128)."""
    values = None if workload is None else numbers("workload", workload)
    return StreamingMatrix.from_json(_noised.banded_inverse_square_root(whole("bands", bands), values))


def lambda_cgd(lambda_: float, n: int) -> StreamingMatrix:
    """The strategy of DP-lambda-CGD, whose noising matrix takes a part of the last step's noise off (arXiv 2601.22334)."""
    return StreamingMatrix.from_json(_noised.lambda_cgd(real("lambda_", lambda_), whole("n", n)))


def inverse_coef(coef: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    """The first `n` coefficients of the inverse, as many as there are in `coef` unless given."""
    values = numbers("coef", coef)
    return np.asarray(_coefs_of(inverse(values), len(values) if n is None else n))


def materialize_lower_triangular(coef: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    """The leading `n x n` block, as large as `coef` is long unless given."""
    values = numbers("coef", coef)
    return matrix(values).materialize(len(values) if n is None else n)


def optimize_banded_toeplitz(
    n: int, bands: int, *, objective: Objective = "mean", client: Client | None = None
) -> NDArray[np.float64]:
    """The coefficients of the best banded Toeplitz strategy for the prefix sum (arXiv 2405.15913), with norm 1. It is best for
    whoever takes part in steps at least `bands` apart, as well; `noised.optimize` knows other patterns and workloads.

    Args:
        n: Steps.
        bands: Non-zero diagonals.
        objective: What is minimised: the `mean` of the squared errors, or the `max`.
        client: Where it is computed; in this process unless given.
    """
    coef = optimize("banded_toeplitz", n, bands=bands, objective=objective, client=client).strategy_coef
    return np.asarray(coef / np.linalg.norm(coef))


def _coef(text: str) -> NDArray[np.float64]:
    return np.asarray(json.loads(text)["coef"], np.float64)


def _coefs_of(of: StreamingMatrix, n: int) -> list[float]:
    found = _noised.toeplitz_coefs(of.to_json(), whole("n", n))
    if found is None:
        raise InvalidArgumentError(field="matrix", rule="must be Toeplitz")
    return found
