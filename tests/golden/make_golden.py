"""Writes matrices.json and strategies.json: values of jax_privacy that noised is compared with.

    python -m venv venv
    venv/bin/pip install jax_privacy==2.0.0 jax==0.10.2
    venv/bin/python tests/golden/make_golden.py

Values only: what jax_privacy's own `materialize` and `row_norms_squared` give in float64.
"""

import json
import pathlib

import jax

jax.config.update('jax_enable_x64', True)

import jax.numpy as jnp
import numpy as np
from importlib import metadata
from jax_privacy.matrix_factorization import banded
from jax_privacy.matrix_factorization import buffered_toeplitz
from jax_privacy.matrix_factorization import streaming_matrix
from jax_privacy.matrix_factorization import toeplitz

HERE = pathlib.Path(__file__).parent
N = 12


def toeplitz_spec(coef, n=None):
  spec = {'kind': 'toeplitz', 'coef': list(coef)}
  return spec if n is None else spec | {'column_normalize_for_n': n}


def blt_spec(decay, scale):
  return {'kind': 'buffered_toeplitz', 'buf_decay': list(decay), 'output_scale': list(scale)}


def inverse_spec(spec):
  return {'kind': 'inverse', 'matrix': spec}


def product_spec(*factors):
  return {'kind': 'product', 'factors': list(factors)}


def matrices():
  """Yields (name, spec, StreamingMatrix or array)."""
  sm = streaming_matrix
  prefix = {'kind': 'prefix_sum'}
  yield 'identity', {'kind': 'identity'}, sm.identity()
  yield 'prefix_sum', prefix, sm.prefix_sum()
  diag = [2.0, -0.5, 1.25]
  diag_spec = {'kind': 'diagonal', 'diag': diag}
  yield 'diagonal', diag_spec, sm.diagonal(jnp.array(diag))
  momentum = {'kind': 'momentum_sgd', 'momentum': 0.9}
  yield 'momentum', momentum, sm.momentum_sgd_matrix(0.9)
  rates = [1.0, 0.5, 0.25, 0.125]
  rated = {'kind': 'momentum_sgd', 'momentum': 0.5, 'learning_rates': rates}
  yield 'momentum with rates', rated, sm.momentum_sgd_matrix(0.5, jnp.array(rates))

  coefs = np.array([1.0, 0.5, 0.375, 0.3125, 0.2, -0.1, 0.05, 0.025])
  for bands in (1, 2, 4, 8):
    coef = 1.5 * coefs[:bands]
    spec = toeplitz_spec(coef)
    yield f'toeplitz, {bands} bands', spec, toeplitz.materialize_lower_triangular(jnp.array(coef), N)
    inverse = toeplitz.inverse_as_streaming_matrix(jnp.array(coef))
    yield f'inverse of toeplitz, {bands} bands', inverse_spec(spec), inverse
    unit = coef / np.linalg.norm(coef)
    normalized = toeplitz.inverse_as_streaming_matrix(jnp.array(unit), column_normalize_for_n=N)
    yield (
        f'inverse of column-normalised toeplitz, {bands} bands',
        inverse_spec(toeplitz_spec(unit, N)),
        normalized,
    )
    yield (
        f'prefix sum times inverse of toeplitz, {bands} bands',
        product_spec(prefix, inverse_spec(spec)),
        sm.prefix_sum() @ inverse,
    )

  decays, scales = [0.95, 0.7, 0.4, 0.1], [0.1, 0.15, 0.05, 0.2]
  for buffers in (1, 2, 3, 4):
    decay, scale = decays[:buffers], scales[:buffers]
    blt = buffered_toeplitz.BufferedToeplitz.build(decay, scale)
    spec = blt_spec(decay, scale)
    yield f'blt, {buffers} buffers', spec, blt.as_streaming_matrix()
    inverse = blt.inverse_as_streaming_matrix()
    yield f'inverse of blt, {buffers} buffers', inverse_spec(spec), inverse
    yield (
        f'prefix sum times inverse of blt, {buffers} buffers',
        product_spec(prefix, inverse_spec(spec)),
        sm.prefix_sum() @ inverse,
    )

  for bands in (1, 3, 5):
    random = np.random.default_rng(bands).uniform(0.1, 1.0, (N, bands))
    random = np.tril(random[::-1])[::-1]  # Nothing below the last row.
    c = banded.ColumnNormalizedBanded(params=jnp.array(random))
    spec = {'kind': 'column_normalized_banded', 'params': random.tolist()}
    yield f'column-normalised banded, {bands} bands', spec, c.materialize()
    inverse = c.inverse_as_streaming_matrix()
    yield f'inverse of column-normalised banded, {bands} bands', inverse_spec(spec), inverse
    yield (
        f'momentum times inverse of column-normalised banded, {bands} bands',
        product_spec(rated, inverse_spec(spec)),
        sm.momentum_sgd_matrix(0.5, jnp.array(rates)) @ inverse,
    )

  row_scale, col_scale = [1.0, 2.0, 3.0, 0.5], [0.25, -1.0]
  scaled = sm.prefix_sum().scale_rows_and_columns(jnp.array(row_scale), jnp.array(col_scale))
  yield (
      'scaled prefix sum',
      {'kind': 'scaled', 'matrix': prefix, 'row_scale': row_scale, 'col_scale': col_scale},
      scaled,
  )
  yield 'scalar multiple', {'kind': 'scaled', 'matrix': momentum, 'col_scale': [0.3]}, (
      sm.momentum_sgd_matrix(0.9) * 0.3
  )


def strategies():
  """Yields cases, each with the arguments and the values."""
  for n in (1, 2, 16):
    yield {
        'strategy': 'optimal_max_error',
        'n': n,
        'coef': toeplitz.optimal_max_error_strategy_coefs(n).tolist(),
    }
    yield {
        'strategy': 'banded_inverse_square_root',
        'bands': n,
        'noising_coef': toeplitz.optimal_max_error_noising_coefs(n).tolist(),
    }
  for buffers in range(1, 9):
    blt = buffered_toeplitz.BufferedToeplitz.from_rational_approx_to_sqrt_x(buffers)
    yield {
        'strategy': 'blt_from_rational_approximation',
        'num_buffers': buffers,
        'buf_decay': blt.buf_decay.tolist(),
        'output_scale': blt.output_scale.tolist(),
        'toeplitz_coefs': blt.toeplitz_coefs(32).tolist(),
    }
  for n, bands in ((5, 1), (6, 3), (7, 7)):
    c = banded.ColumnNormalizedBanded.default(n, bands)
    yield {
        'strategy': 'column_normalized_banded',
        'n': n,
        'bands': bands,
        'params': c.params.tolist(),
    }


def write(name, cases):
  versions = {package: metadata.version(package) for package in ('jax', 'jax_privacy', 'numpy')}
  lines = ',\n'.join('    ' + json.dumps(case) for case in cases)
  header = json.dumps(versions)
  (HERE / name).write_text('{\n  "made_with": %s,\n  "cases": [\n%s\n  ]\n}\n' % (header, lines))


def main():
  cases = []
  for name, spec, matrix in matrices():
    if isinstance(matrix, streaming_matrix.StreamingMatrix):
      rows, norms = matrix.materialize(N), matrix.row_norms_squared(N)
    else:
      rows, norms = matrix, (matrix**2).sum(axis=1)
    rows, norms = np.asarray(rows), np.asarray(norms)
    assert rows.shape == (N, N) and np.isfinite(rows).all() and rows.dtype == np.float64, name
    lower = [rows[i, : i + 1].tolist() for i in range(N)]
    assert (np.triu(rows, 1) == 0).all(), name
    cases.append({
        'name': name, 'matrix': spec, 'n': N, 'rows': lower, 'row_norms_squared': norms.tolist()
    })
  write('matrices.json', cases)
  write('strategies.json', strategies())


if __name__ == '__main__':
  main()
