"""Matrices by the names of jax_privacy, and questions about them, here and on a server."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax_privacy import matrix_factorization as theirs

import noised
from noised import banded, buffered_toeplitz, streaming_matrix, toeplitz
from noised.errors import InvalidArgumentError

N = 12


def pairs() -> list[tuple[str, noised.StreamingMatrix, Any]]:
    """Each of ours, and the same of jax_privacy."""
    rates = [0.5, 0.25, 0.125]
    coef = [1.0, 0.5, 0.25]
    ours_blt = buffered_toeplitz.BufferedToeplitz.build([0.9, 0.3], [0.2, 0.1])
    their_blt = theirs.buffered_toeplitz.BufferedToeplitz.build([0.9, 0.3], [0.2, 0.1], dtype=jnp.float32)
    their_sum = theirs.streaming_matrix.prefix_sum()
    sm = theirs.streaming_matrix
    return [
        ("identity", noised.identity(), sm.identity()),
        ("prefix_sum", noised.prefix_sum(), their_sum),
        ("diagonal", noised.diagonal([1.0, 2.0, 3.0]), sm.diagonal(jnp.array([1.0, 2.0, 3.0]))),
        ("momentum", noised.momentum_sgd_matrix(0.9, rates), sm.momentum_sgd_matrix(0.9, jnp.array(rates))),
        ("momentum alone", noised.momentum_sgd_matrix(0.9), sm.momentum_sgd_matrix(0.9)),
        ("toeplitz", toeplitz.inverse(coef), theirs.toeplitz.inverse_as_streaming_matrix(jnp.array(coef))),
        (
            "toeplitz, normalised",
            toeplitz.inverse_as_streaming_matrix(coef, column_normalize_for_n=N),
            theirs.toeplitz.inverse_as_streaming_matrix(jnp.array(coef), column_normalize_for_n=N),
        ),
        ("blt", ours_blt.as_streaming_matrix(), their_blt.as_streaming_matrix()),
        ("blt inverse", ours_blt.inverse_as_streaming_matrix(), their_blt.inverse_as_streaming_matrix()),
        (
            "banded",
            banded.ColumnNormalizedBanded.default(N, 4).inverse_as_streaming_matrix(),
            theirs.banded.ColumnNormalizedBanded.default(N, 4).inverse_as_streaming_matrix(),
        ),
        (
            "banded of coefficients",
            banded.ColumnNormalizedBanded.from_banded_toeplitz(N, coef).inverse_as_streaming_matrix(),
            theirs.banded.ColumnNormalizedBanded.from_banded_toeplitz(
                N, jnp.array(coef)
            ).inverse_as_streaming_matrix(),
        ),
        (
            "product",
            noised.prefix_sum() @ ours_blt.inverse_as_streaming_matrix(),
            sm.multiply_streaming_matrices(their_sum, their_blt.inverse_as_streaming_matrix()),
        ),
        ("multiple", noised.prefix_sum() * 2.5, their_sum * 2.5),
        (
            "scaled",
            noised.scale_rows_and_columns(noised.prefix_sum(), np.arange(1, N + 1), [2.0, 0.5]),
            sm.scale_rows_and_columns(
                their_sum, jnp.arange(1.0, N + 1), jnp.array([2.0, 0.5] + [0.5] * (N - 2))
            ),
        ),
    ]


@pytest.mark.parametrize(("name", "ours", "peer"), pairs(), ids=[name for name, _, _ in pairs()])
def test_matrices_are_those_of_jax_privacy(name: str, ours: noised.StreamingMatrix, peer: Any) -> None:
    expected = np.asarray(peer.materialize(N))
    np.testing.assert_allclose(ours.materialize(N), expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(ours.row_norms_squared(N), (expected**2).sum(axis=1), rtol=1e-4)
    assert noised.StreamingMatrix.from_json(ours.to_json()) == ours


def test_a_server_answers_as_this_process_does(client: noised.Client) -> None:
    blt = buffered_toeplitz.BufferedToeplitz.from_rational_approx_to_sqrt_x(3)
    noising = blt.inverse_as_streaming_matrix()
    matrix = noised.prefix_sum() @ noising
    np.testing.assert_array_equal(matrix.materialize(N), matrix.materialize(N, client))
    np.testing.assert_array_equal(matrix.row_norms_squared(N), matrix.row_norms_squared(N, client))
    x = np.random.default_rng(1).normal(size=(N, 2, 3))
    np.testing.assert_array_equal(matrix.multiply(x), matrix.multiply(x, client))
    np.testing.assert_allclose(
        matrix.multiply(x), np.einsum("ij,jkl->ikl", matrix.materialize(N), x), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_array_equal(
        noised.query_errors(noising, N), noised.query_errors(noising, N, client=client)
    )
    pattern = noised.Participation(min_sep=4, max_participations=2)
    strategy = blt.as_streaming_matrix()
    here, there = (
        noised.sensitivity(strategy, N, pattern),
        noised.sensitivity(strategy, N, pattern, client=client),
    )
    assert here == there
    assert here.exact
    columns = strategy.materialize(N)
    assert here.squared == pytest.approx(
        max(np.sum((columns[:, i] + columns[:, i + 4]) ** 2) for i in range(N - 4))
    )
    asked: dict[str, Any] = {"max_planes": 3, "participation": pattern, "objective": "max"}
    assert noised.recommend(N, **asked) == noised.recommend(N, **asked, client=client)
    assert noised.calibrate(2.0, epsilon=3.0, delta=1e-5) == noised.calibrate(
        2.0, epsilon=3.0, delta=1e-5, client=client
    )


def max_loss(strategy: noised.StreamingMatrix, n: int) -> float:
    errors = noised.query_errors(strategy.inverse(), n)
    return noised.sensitivity(strategy, n).squared * float(errors.max())


def test_optimisers_do_as_well_as_those_of_jax_privacy() -> None:
    found = buffered_toeplitz.optimize(n=500, max_buffers=2)
    peer = theirs.buffered_toeplitz.optimize(n=500, min_buffers=2, max_buffers=2)
    their_blt = noised.BufferedToeplitz.build(peer.buf_decay, peer.output_scale)
    # Either stops where one buffer more gains less than 1%.
    assert max_loss(found.as_streaming_matrix(), 500) <= 1.01 * max_loss(their_blt.as_streaming_matrix(), 500)
    coef = toeplitz.optimize_banded_toeplitz(200, 8, objective="max")
    their_coef = theirs.toeplitz.optimize_banded_toeplitz(200, 8, reduction_fn=jnp.max)
    assert np.linalg.norm(coef) == pytest.approx(1.0)
    assert max_loss(toeplitz.matrix(coef), 200) <= 1.001 * max_loss(
        toeplitz.matrix(np.asarray(their_coef)), 200
    )
    assert banded.optimize(32, bands=4).params.shape == (32, 4)
    dense = noised.optimize("dense", 16)
    inverse = noised.optimize("banded_inverse_toeplitz", 16, bands=4)
    assert dense.loss <= inverse.loss
    assert inverse.noising_matrix.materialize(6)[5, 0] == pytest.approx(0.0)


def test_calibration_says_what_it_takes() -> None:
    found = noised.calibrate(1.0, epsilon=1.0, delta=1e-5)
    assert found.stddev == pytest.approx(3.7303, rel=1e-3)
    assert noised.calibrate(3.0, mu=1.0, delta=1e-5).epsilon == pytest.approx(4.3766, rel=1e-2)
    wrongs: list[dict[str, Any]] = [
        {},
        {"epsilon": 1.0},
        {"epsilon": 1.0, "delta": 1e-5, "rho": 1.0},
        {"rho": -1.0},
    ]
    for wrong in wrongs:
        with pytest.raises(InvalidArgumentError):
            noised.calibrate(1.0, **wrong)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: noised.BufferedToeplitz.build([1.5], [0.1]), "matrix.buf_decay"),
        (lambda: noised.BufferedToeplitz.build([0.5], [0.1, 0.2]), "matrix.output_scale"),
        (lambda: toeplitz.inverse([0.0, 1.0]), "matrix"),
        (lambda: toeplitz.matrix([1.0, float("nan")]), "coef[1]"),
        (lambda: noised.momentum_sgd_matrix(0.9, [0.1, -1.0]), "matrix.learning_rates[1]"),
        (lambda: noised.dense([[1.0, 1.0], [0.0, 1.0]]), "rows"),
        (lambda: noised.diagonal(np.ones((2, 2))), "diag"),
        (lambda: noised.StreamingMatrix.from_json('{"kind": "prefix"}'), "matrix"),
        (lambda: noised.StreamingMatrix.from_json("{"), "matrix"),
        (lambda: noised.prefix_sum().materialize(0), "n"),
        (lambda: noised.Participation(min_sep=2, epochs=3), "epochs"),
        (lambda: noised.recommend(10, max_planes=4, objective="worst"), "objective"),  # type: ignore[arg-type]
        (lambda: noised.optimize("dense", 8, bands=3), "bands"),
        (lambda: noised.optimize("banded_toeplitz", 8, buffers=3), "buffers"),
        (lambda: noised.optimize("banded_toeplitz", 8), "bands"),
        (lambda: noised.optimize("circulant", 8), "family"),  # type: ignore[arg-type]
        (lambda: noised.prefix_sum().multiply(3.0), "x"),
        (lambda: noised.momentum_sgd_matrix(float("nan")), "matrix"),
        (lambda: toeplitz.matrix([1.0], column_normalize_for_n=2.5), "column_normalize_for_n"),  # type: ignore[arg-type]
        (lambda: noised.sensitivity(noised.BufferedToeplitz.build([0.5], [0.1]), 5), "strategy"),  # type: ignore[arg-type]
        (lambda: noised.optimize("dense", 5, workload=np.eye(5)), "workload"),  # type: ignore[arg-type]
        (lambda: noised.optimize("dense", 5, client="local:"), "client"),  # type: ignore[arg-type]
        (lambda: noised.optimize("dense", "5"), "n"),  # type: ignore[arg-type]
        (lambda: noised.calibrate("x", rho=1.0), "sensitivity"),  # type: ignore[arg-type]
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(make: Any, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        make()
    assert raised.value.field.startswith(field)


def test_matrices_multiply_as_in_jax_privacy() -> None:
    matrix = noised.prefix_sum()
    assert matrix * matrix == matrix @ matrix
    np.testing.assert_array_equal((2.0 * matrix).materialize(3), 2 * np.tril(np.ones((3, 3))))
    np.testing.assert_array_equal(matrix * np.ones(4), [1, 2, 3, 4])
    np.testing.assert_array_equal(
        streaming_matrix.multiply_array(matrix, np.ones((3, 2))), np.array([[1, 1], [2, 2], [3, 3]])
    )
    assert matrix.inverse().inverse() == matrix
    with pytest.raises(TypeError):
        np.ones(3) * matrix  # type: ignore[operator]
    with pytest.raises(InvalidArgumentError, match=r"found jax_privacy.*StreamingMatrix"):
        noised.connect("local:").create_session(theirs.streaming_matrix.prefix_sum(), np.zeros(1))
    with pytest.raises(TypeError):
        matrix @ 3  # type: ignore[operator]
    with pytest.raises(InvalidArgumentError, match="inverse_as_streaming_matrix"):
        noised.connect("local:").create_session(noised.BufferedToeplitz.build([0.5], [0.1]), np.zeros(1))  # type: ignore[arg-type]


def test_what_raises_in_progress_ends_the_search(client: noised.Client) -> None:
    def stop(what: str, iteration: int, loss: float) -> None:
        raise KeyError(what)

    for place in (None, client):
        with pytest.raises(KeyError):
            noised.optimize("column_normalized_banded", 2000, bands=16, client=place, on_progress=stop)


def test_a_search_ends_early_with_the_best_so_far(client: noised.Client) -> None:
    def enough(what: str, iteration: int, loss: float) -> bool:
        return False

    for place in (None, client):
        early = noised.optimize("column_normalized_banded", 2000, bands=16, client=place, on_progress=enough)
        assert not early.complete
        assert np.isfinite(early.loss)
        found = noised.recommend(50_000, max_planes=32, client=place, on_progress=enough)
        assert not found.complete
        assert found.best.loss > 0
    assert noised.optimize("banded_toeplitz", 16, bands=3).complete
