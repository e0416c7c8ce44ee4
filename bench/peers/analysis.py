"""jax_privacy's error analysis and its optimisers, timed on request.

Reads one JSON object a line from standard input and answers each with one line. `set_up` and `steps` time
`row_norms_squared` of a matrix, jitted, after compiling; `optimize` times one of the optimisers, compiling included.
"""

import json
import sys
import time

import numpy as np
from scipy import linalg
from scipy import signal


def optimize(setting):
  """The strategy that jax_privacy finds for a setting, as a specification, and the seconds it took."""
  import jax
  import jax.numpy as jnp
  from jax_privacy.matrix_factorization import banded
  from jax_privacy.matrix_factorization import buffered_toeplitz
  from jax_privacy.matrix_factorization import dense
  from jax_privacy.matrix_factorization import toeplitz

  n, objective, k = setting['n'], setting['objective'], setting.get('max_participations', 1)
  reduction = {'mean': jnp.mean, 'max': jnp.max}[objective]
  jax.clear_caches()
  start = time.perf_counter()
  match setting['family']:
    case 'banded_toeplitz':
      # The same for every number of participations, as they are at least as far apart as there are bands.
      assert k == 1 or setting['bands'] <= setting['min_sep']
      coef = toeplitz.optimize_banded_toeplitz(n, setting['bands'], reduction_fn=reduction)
      spec = {'kind': 'toeplitz', 'coef': coef.tolist()}
    case 'buffered_toeplitz':
      loss_fn = buffered_toeplitz.LossFn
      with jax.enable_x64():
        if k == 1 and objective == 'max':
          loss = loss_fn.build_closed_form_single_participation(n)
        else:
          min_sep = setting.get('min_sep', 1)
          loss = loss_fn.build_min_sep(n, error=objective, min_sep=min_sep, max_participations=k)
      blt, _ = buffered_toeplitz.optimize_loss(loss, num_buffers=setting['buffers'])
      decay, scale = blt.buf_decay.tolist(), blt.output_scale.tolist()
      spec = {'kind': 'buffered_toeplitz', 'buf_decay': decay, 'output_scale': scale}
    case 'column_normalized_banded':
      c = banded.optimize(n, bands=setting['bands'], reduction_fn=reduction)
      spec = {'kind': 'column_normalized_banded', 'params': c.params.tolist()}
    case 'dense':
      # With a least separation, bands as wide as it and columns of one norm; else epochs.
      with jax.enable_x64():
        min_sep = setting.get('min_sep')
        c = dense.optimize(n, epochs=setting.get('epochs', 1), bands=min_sep, equal_norm=min_sep is not None)
      spec = {'kind': 'dense', 'rows': [row[: i + 1] for i, row in enumerate(np.asarray(c).tolist())]}
  return spec, time.perf_counter() - start


def lower(spec, n):
  """The strategy's leading block, written out."""
  match spec['kind']:
    case 'toeplitz':
      column = np.pad(spec['coef'], (0, n - len(spec['coef'])))
      return linalg.toeplitz(column, np.zeros(n))
    case 'column_normalized_banded':
      c = np.zeros((n, n))
      for j, column in enumerate(spec['params']):
        column = column[: n - j]
        c[j : j + len(column), j] = column / np.linalg.norm(column)
      return c
    case 'dense':
      c = np.zeros((n, n))
      for i, row in enumerate(spec['rows']):
        c[i, : i + 1] = row
      return c


def blt_column(decay, scale, n):
  """The coefficients of a BLT, one power after the other."""
  column = np.empty(n)
  column[0], powers = 1.0, np.array(scale)
  for i in range(1, n):
    column[i] = powers.sum()
    powers *= decay
  return column


def blt_decoder(decay, scale, n):
  """The prefix sum times the inverse of a BLT: its inverse, fed ones."""
  column, state, pairs = np.empty(n), [0.0] * len(decay), list(zip(decay, scale))
  for i in range(n):
    x = 1.0 - sum(w * s for (_, w), s in zip(pairs, state))
    state = [theta * s + x for (theta, _), s in zip(pairs, state)]
    column[i] = x
  return column


def loss(setting, spec):
  """Squared sensitivity times the objective, in float64 and by nothing of jax_privacy's."""
  n, k, kind = setting['n'], setting.get('max_participations', 1), spec['kind']
  reduction = {'mean': np.mean, 'max': np.max}[setting['objective']]
  if kind == 'toeplitz':
    coef = np.array(spec['coef'])
    decoder = signal.lfilter([1.0], coef, np.ones(n))
    return float(k * (coef**2).sum() * reduction(np.cumsum(decoder**2)))
  if kind == 'buffered_toeplitz':
    decay, scale = spec['buf_decay'], spec['output_scale']
    column = blt_column(decay, scale, n)
    assert (column >= 0).all() and (np.diff(column) <= 0).all(), 'its columns are not what the sensitivity needs'
    total = np.zeros(n)
    for i in range(k):
      shift = i * setting.get('min_sep', 1)
      total[shift:] += column[: n - shift]
    return float((total**2).sum() * reduction(np.cumsum(blt_decoder(decay, scale, n) ** 2)))
  c = lower(spec, n)
  decoder = linalg.solve_triangular(c.T, np.tri(n).T, lower=False).T
  gram = np.abs(c.T @ c)
  if min_sep := setting.get('min_sep'):
    assert all(gram[i, j] < 1e-9 for i in range(n) for j in range(n) if abs(i - j) >= min_sep)
    squared = max_participation(np.diag(gram), min_sep, setting.get('max_participations'))
  else:
    apart = n // setting.get('epochs', 1)
    squared = max(gram[i::apart, i::apart].sum() for i in range(apart))
  return float(squared * reduction((decoder**2).sum(axis=1)))


def max_participation(values, min_sep, most):
  """The largest sum of at most `most` values that are `min_sep` apart."""
  n = len(values)
  fit = -(-n // min_sep)
  best = [0.0] * (n + min_sep)
  for _ in range(fit if most is None else min(most, fit)):
    found = [0.0] * (n + min_sep)
    for i in reversed(range(n)):
      found[i] = max(found[i + 1], values[i] + best[i + min_sep])
    best = found
  return best[0]


def row_norms(spec, n, precision):
  """A call of `row_norms_squared`, jitted."""
  import jax

  jax.config.update('jax_enable_x64', precision == 'float64')
  from steps import jax_matrix

  matrix = jax_matrix(spec, precision)
  run = jax.jit(lambda: matrix.row_norms_squared(n))
  return lambda: jax.block_until_ready(run())


def main():
  step = None
  for line in sys.stdin:
    request = json.loads(line)
    try:
      match request['do']:
        case 'set_up':
          step = row_norms(request['matrix'], request['lanes'], sys.argv[1])
          step()
          answer = {'form': ''}
        case 'steps':
          seconds = []
          for _ in range(request['count']):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
          answer = {'seconds': seconds}
        case 'optimize':
          spec, seconds = optimize(request['setting'])
          answer = {'seconds': [seconds], 'loss': loss(request['setting'], spec)}
        case 'loss':
          answer = {'loss': loss(request['setting'], request['strategy'])}
    except (ValueError, AssertionError, MemoryError, RuntimeError) as error:
      answer = {'error': f'{type(error).__name__}: {error}'.splitlines()[0]}
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
