"""Lower-triangular matrices, applied one step at a time: what a session streams.

The functions are named as in `jax_privacy.matrix_factorization.streaming_matrix`, and mean the same. A matrix here is a
description; a session holds its state.
"""

from __future__ import annotations

import functools
import json
import math
import os
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noised import _noised
from noised._check import floats, is_a, real, whole
from noised.errors import InvalidArgumentError

if TYPE_CHECKING:
    from noised.client import Client


class StreamingMatrix:
    """A matrix `A`, lower triangular, of as many rows as are asked for, or of `n`.

    `A @ B` is the product, `A * number` a multiple, `A.inverse()` the inverse. Questions about it are answered in this
    process, or by a server where a client is given.
    """

    __slots__ = ("_spec",)
    #: An array times a matrix is nothing; NumPy would make an array of matrices of it.
    __array_ufunc__ = None

    def __init__(self, spec: dict[str, Any]) -> None:
        """Use the functions of this module, of `toeplitz`, `buffered_toeplitz` and `banded`, or `from_json`."""
        self._spec = is_a("matrix", spec, dict, "a dict")
        _noised.check(self.to_json())

    @classmethod
    def from_json(cls, text: str) -> StreamingMatrix:
        """A matrix from its description as JSON, which `noisectl` and the server read as well."""
        try:
            spec = json.loads(text, object_pairs_hook=_without_doubles)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidArgumentError(field="matrix", rule=f"is no JSON: {error}") from error
        return cls(spec)

    def to_json(self) -> str:
        """Its description as JSON."""
        try:
            return json.dumps(self._spec, allow_nan=False)
        except ValueError:
            raise InvalidArgumentError(
                field="matrix", rule="must have finite numbers alone, found one that is not"
            ) from None
        except (TypeError, RecursionError) as error:
            raise InvalidArgumentError(
                field="matrix", rule=f"must be made of what JSON has: {error}"
            ) from None

    # Algebra.

    def __matmul__(self, other: StreamingMatrix) -> StreamingMatrix:
        if not isinstance(other, StreamingMatrix):
            return NotImplemented
        return StreamingMatrix({"kind": "product", "factors": _factors(self) + _factors(other)})

    @overload
    def __mul__(self, other: float) -> StreamingMatrix: ...
    @overload
    def __mul__(self, other: StreamingMatrix) -> StreamingMatrix: ...
    @overload
    def __mul__(self, other: ArrayLike) -> Any: ...
    def __mul__(self, other: Any) -> Any:
        """As in jax_privacy: by a number, by a matrix, or `A x` for an array `x`, whose first axis is the step."""
        if isinstance(other, StreamingMatrix):
            return self @ other
        if np.ndim(other) == 0:
            return self.scale_rows_and_columns(row_scale=[real("factor", other)])
        return self.multiply(other)

    def __rmul__(self, other: float) -> StreamingMatrix:
        if np.ndim(other) != 0:
            return NotImplemented
        return self.scale_rows_and_columns(row_scale=[real("factor", other)])

    def inverse(self) -> StreamingMatrix:
        """`A^-1`, which streams as `A` does. The diagonal must have no zero."""
        if self._spec["kind"] == "inverse":
            return StreamingMatrix(self._spec["matrix"])
        return StreamingMatrix({"kind": "inverse", "matrix": self._spec})

    def scale_rows_and_columns(
        self, row_scale: ArrayLike | None = None, col_scale: ArrayLike | None = None
    ) -> StreamingMatrix:
        """`diag(row_scale) A diag(col_scale)`; the last value of each repeats for ever."""
        spec: dict[str, Any] = {"kind": "scaled", "matrix": self._spec}
        if row_scale is not None:
            spec["row_scale"] = numbers("row_scale", row_scale)
        if col_scale is not None:
            spec["col_scale"] = numbers("col_scale", col_scale)
        return StreamingMatrix(spec)

    # Questions.

    def materialize(self, n: int, client: Client | None = None) -> NDArray[np.float64]:
        """The leading `n x n` block."""
        return _noised.materialize(_place(client), self.to_json(), whole("n", n))

    def row_norms_squared(self, n: int, client: Client | None = None) -> NDArray[np.float64]:
        """The squared L2 norm of each of the first `n` rows."""
        return _noised.row_norms_squared(_place(client), self.to_json(), whole("n", n))[0]

    def multiply(self, x: ArrayLike, client: Client | None = None) -> NDArray[np.float64]:
        """`A x`, for an array whose first axis is the step."""
        array = floats("x", x)
        if array.ndim == 0 or array.size == 0:
            raise InvalidArgumentError(
                field="x", rule=f"must have an axis of steps and a value for each, found shape {array.shape}"
            )
        rows = np.ascontiguousarray(array).reshape(array.shape[0], -1)
        return _noised.multiply(_place(client), self.to_json(), rows).reshape(array.shape)

    def __eq__(self, other: object) -> bool:
        return self._spec == other._spec if isinstance(other, StreamingMatrix) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"<noised.StreamingMatrix {_said(self._spec)}>"


def identity() -> StreamingMatrix:
    """`y = x`: independent noise, DP-SGD."""
    return StreamingMatrix({"kind": "identity"})


def prefix_sum() -> StreamingMatrix:
    """Running sums: the workload of SGD with a constant learning rate."""
    return StreamingMatrix({"kind": "prefix_sum"})


def diagonal(diag: ArrayLike) -> StreamingMatrix:
    """`y_t = d_t x_t`; the last value repeats for ever."""
    return StreamingMatrix({"kind": "diagonal", "diag": numbers("diag", diag)})


def momentum_sgd_matrix(momentum: float = 0, learning_rates: ArrayLike | None = None) -> StreamingMatrix:
    """The workload of SGD with momentum: `m = momentum m + x; r += lr_t m; y = r`.

    Args:
        momentum: The factor of the moment.
        learning_rates: One a step, none negative, and none 0 in a matrix that is inverted; the last repeats for ever. 1
            unless given.
    """
    spec: dict[str, Any] = {"kind": "momentum_sgd", "momentum": real("momentum", momentum)}
    if learning_rates is not None:
        spec["learning_rates"] = numbers("learning_rates", learning_rates)
    return StreamingMatrix(spec)


def dense(rows: ArrayLike) -> StreamingMatrix:
    """A matrix that is written out, square and lower triangular. It ends at its last row."""
    array = floats("rows", rows)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise InvalidArgumentError(field="rows", rule=f"must be a square matrix, found shape {array.shape}")
    if np.triu(array, 1).any():
        raise InvalidArgumentError(field="rows", rule="must be lower triangular")
    lower = [numbers("rows", row[: i + 1]) for i, row in enumerate(array)]
    return StreamingMatrix({"kind": "dense", "rows": lower})


def multiply_streaming_matrices(A: StreamingMatrix, B: StreamingMatrix) -> StreamingMatrix:  # noqa: N803
    """`A B`: `B` first."""
    left = is_a("A", A, StreamingMatrix, "a noised.StreamingMatrix")
    return left @ is_a("B", B, StreamingMatrix, "a noised.StreamingMatrix")


def scale_rows_and_columns(
    matrix: StreamingMatrix, row_scale: ArrayLike | None = None, col_scale: ArrayLike | None = None
) -> StreamingMatrix:
    """`diag(row_scale) A diag(col_scale)`."""
    scaled = is_a("matrix", matrix, StreamingMatrix, "a noised.StreamingMatrix")
    return scaled.scale_rows_and_columns(row_scale, col_scale)


def multiply_array(A: StreamingMatrix, x: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
    """`A x`, for an array whose first axis is the step."""
    return is_a("A", A, StreamingMatrix, "a noised.StreamingMatrix").multiply(x)


def numbers(field: str, values: ArrayLike) -> list[float]:
    """Values of one axis, as JSON has them: finite."""
    array = np.atleast_1d(floats(field, values))
    if array.ndim != 1:
        raise InvalidArgumentError(field=field, rule=f"must have one axis, found shape {array.shape}")
    listed: list[float] = array.tolist()
    for i, value in enumerate(listed):
        if not math.isfinite(value):
            raise InvalidArgumentError(field=f"{field}[{i}]", rule=f"must be finite, found {value}")
    return listed


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no name may be twice: one of the two values would be dropped without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} is twice in an object")
    return found


#: Where each kind has its numbers, of which a short form tells how many there are.
_NUMBERS = {
    "toeplitz": ("coef", "bands"),
    "buffered_toeplitz": ("buf_decay", "buffers"),
    "dense": ("rows", "rows"),
    "column_normalized_banded": ("params", "columns"),
    "diagonal": ("diag", "values"),
}


def _said(spec: dict[str, Any]) -> str:
    """A matrix in a few words."""
    kind = str(spec["kind"])
    if kind == "product":
        return " @ ".join(map(_said, spec["factors"]))
    if kind == "inverse":
        return f"inverse({_said(spec['matrix'])})"
    if kind == "scaled":
        return f"scaled({_said(spec['matrix'])})"
    where, what = _NUMBERS.get(kind, ("", ""))
    return f"{kind}({len(spec[where])} {what})" if where else kind


def _factors(matrix: StreamingMatrix) -> list[dict[str, Any]]:
    spec = matrix._spec
    return list(spec["factors"]) if spec["kind"] == "product" else [spec]


def _place(client: Client | None) -> _noised.Connection:
    if client is None:
        return _local()
    connection = getattr(client, "_connection", None)
    if not isinstance(connection, _noised.Connection):
        raise InvalidArgumentError(
            field="client", rule=f"must be what noised.connect gives, found {type(client).__name__}"
        )
    return connection


def _json(field: str, matrix: StreamingMatrix) -> str:
    """The description of an argument that must be a matrix."""
    name = "a noised.StreamingMatrix"
    if not isinstance(matrix, type) and hasattr(matrix, field):
        # A design has a strategy, a noising matrix and more.
        name = f"{name}, such as its .{field}"
    return is_a(field, matrix, StreamingMatrix, name).to_json()


@functools.cache
def _here(process: int) -> _noised.Connection:
    return _noised.Connection.local()


def _local() -> _noised.Connection:
    """This process. Made when it is first asked, so that an import starts nothing."""
    return _here(os.getpid())
