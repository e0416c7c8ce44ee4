"""Writes analysis.json: errors, sensitivities, closed forms, noise and optimised losses that noised is compared with.

    python -m venv venv
    venv/bin/pip install -r bench/peers/requirements.txt mpmath
    JAX_PLATFORMS=cpu venv/bin/python tests/golden/make_analysis.py --keep target/losses.jsonl

Values only: what jax_privacy and dp_accounting give in float64, what mpmath gives in 50 digits, and the losses of
jax_privacy's own optima, computed again by NumPy. An optimum takes seconds to minutes; those that are in the file
given by `--keep` are not looked for again. `--only values` leaves the losses in analysis.json as they are, and
`--only losses` the values.
"""

import argparse
import json
import pathlib
import signal
import sys

import jax

jax.config.update('jax_enable_x64', True)

import dp_accounting
import jax.numpy as jnp
import mpmath
import numpy as np
from importlib import metadata
from jax_privacy.matrix_factorization import banded
from jax_privacy.matrix_factorization import buffered_toeplitz
from jax_privacy.matrix_factorization import sensitivity
from jax_privacy.matrix_factorization import streaming_matrix
from jax_privacy.matrix_factorization import toeplitz

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / 'bench' / 'peers'))

import analysis

from make_golden import blt_spec, inverse_spec, product_spec, toeplitz_spec

# An optimum that takes longer is left out.
MOST_SECONDS = 240


def settings():
  """Every setting whose optimum is compared."""
  for n in (100, 1000, 10_000):
    for bands in (4, 16, 64, 256):
      for objective in ('mean', 'max'):
        if bands <= n:
          yield {'family': 'banded_toeplitz', 'n': n, 'bands': bands, 'objective': objective}
  yield {'family': 'banded_toeplitz', 'n': 100_000, 'bands': 4, 'objective': 'mean'}
  for n in (64, 256):
    for bands in (4, 8):
      yield {'family': 'column_normalized_banded', 'n': n, 'bands': bands, 'objective': 'mean'}
  for n in (32, 64):
    yield {'family': 'dense', 'n': n, 'objective': 'mean'}
    yield {'family': 'dense', 'n': n, 'objective': 'mean', 'epochs': 4}
    yield {'family': 'dense', 'n': n, 'objective': 'mean', 'min_sep': 8}
  for n in (100, 1000, 10_000, 100_000, 1_000_000):
    for buffers in (1, 2, 3, 4, 5):
      blt = {'family': 'buffered_toeplitz', 'n': n, 'buffers': buffers}
      yield blt | {'objective': 'max'}
      # All but that form n numbers at every step, which takes minutes where n is large.
      if n <= 1000 or n == 10_000 and buffers <= 2:
        yield blt | {'objective': 'mean'}
        for objective in ('mean', 'max'):
          yield blt | {'objective': objective, 'min_sep': n // 8, 'max_participations': 8}


def picked(n):
  """Some entries of n, with both ends."""
  found, step = [0], 1
  while found[-1] + step < n - 1:
    found.append(found[-1] + step)
    step += found[-1] // 4
  return sorted({*found, n - 1})


def workloads(n):
  sm = streaming_matrix
  yield 'prefix sum', {'kind': 'prefix_sum'}, sm.prefix_sum()
  yield 'momentum', {'kind': 'momentum_sgd', 'momentum': 0.9}, sm.momentum_sgd_matrix(0.9)
  rates = [float(rate) for rate in np.round(0.05 + np.cos(np.arange(24) / 16), 6)]
  spec = {'kind': 'momentum_sgd', 'momentum': 0.85, 'learning_rates': rates}
  yield 'momentum with rates', spec, sm.momentum_sgd_matrix(0.85, jnp.array(rates))
  row_scale, col_scale = [2.0, 1.5, 0.25], [0.5, -1.0, 3.0, 0.75]
  scaled = sm.prefix_sum().scale_rows_and_columns(jnp.array(row_scale), jnp.array(col_scale))
  prefix = {'kind': 'prefix_sum'}
  spec = {'kind': 'scaled', 'matrix': prefix, 'row_scale': row_scale, 'col_scale': col_scale}
  yield 'scaled prefix sum', spec, scaled


def mechanisms(n):
  """Yields (name, {'strategy' or 'noising_matrix': spec}, C^-1)."""
  yield 'identity', {'strategy': {'kind': 'identity'}}, streaming_matrix.identity()
  for bands in (4, 32):
    coef = toeplitz.optimal_max_error_strategy_coefs(bands)
    inverse = toeplitz.inverse_as_streaming_matrix(coef)
    yield f'toeplitz, {bands} bands', {'strategy': toeplitz_spec(coef.tolist())}, inverse
  bands = min(n, 8)
  coef = toeplitz.optimal_max_error_strategy_coefs(bands)
  coef = coef / jnp.linalg.norm(coef)
  inverse = toeplitz.inverse_as_streaming_matrix(coef, column_normalize_for_n=n)
  yield f'column-normalised toeplitz, {bands} bands', {'strategy': toeplitz_spec(coef.tolist(), n)}, inverse
  for buffers in (1, 4):
    blt = buffered_toeplitz.BufferedToeplitz.from_rational_approx_to_sqrt_x(buffers, max_buf_decay=0.999)
    spec = blt_spec(blt.buf_decay.tolist(), blt.output_scale.tolist())
    yield f'blt, {buffers} buffers', {'strategy': spec}, blt.inverse_as_streaming_matrix()
  inverse = blt.inverse()
  spec = blt_spec(inverse.buf_decay.tolist(), inverse.output_scale.tolist())
  yield 'blt inverse as a blt', {'noising_matrix': spec}, inverse.as_streaming_matrix()
  random = np.random.default_rng(8).uniform(0.1, 1.0, (n, bands))
  random = np.round(np.tril(random[::-1])[::-1], 3)
  c = banded.ColumnNormalizedBanded(params=jnp.array(random))
  spec = {'kind': 'column_normalized_banded', 'params': random.tolist()}
  yield f'column-normalised banded, {bands} bands', {'strategy': spec}, c.inverse_as_streaming_matrix()


def errors():
  """Squared errors of some queries, and squared norms of the columns of the decoder."""
  for n in (1, 33, 150, 400):
    for at, (mechanism, half, noising) in enumerate(mechanisms(n)):
      # Every workload with every mechanism at one size; the prefix sum, and one other, at the rest.
      for which, (workload, a_spec, a) in enumerate(workloads(n)):
        banded_at = 33 if 'banded' in mechanism else 150
        if n != banded_at and (which not in (0, at % 4) or n == 400 and 'banded' in mechanism):
          continue
        decoder = a @ noising
        rows = np.asarray(decoder.materialize(n))
        norms = np.asarray(decoder.row_norms_squared(n))
        assert np.allclose((rows**2).sum(axis=1), norms, rtol=1e-12), (workload, mechanism)
        at_rows = picked(n)
        yield half | {
            'name': f'{workload}, {mechanism}',
            'n': n,
            'workload': a_spec,
            'at': at_rows,
            'per_query': norms[at_rows].tolist(),
            'column_norms_squared': (rows**2).sum(axis=0)[at_rows].tolist(),
            'mean': float(norms.mean()),
            'max': float(norms.max()),
            'last': float(norms[-1]),
            'rmse': float(np.sqrt(norms.mean())),
        }


def brute_force(gram, min_sep, most):
  """The largest u'Xu over every pattern of participation and every sign: at most the sensitivity, squared."""
  n, best = len(gram), 0.0

  def extend(chosen, signs, value):
    nonlocal best
    best = max(best, value)
    if len(chosen) == most:
      return
    for i in range(chosen[-1] + min_sep if chosen else 0, n):
      cross = sum(sign * gram[i, j] for sign, j in zip(signs, chosen))
      for sign in (1, -1) if chosen else (1,):
        extend(chosen + [i], signs + [sign], value + gram[i, i] + 2 * sign * cross)

  extend([], [], 0.0)
  return best


def case(spec, n, participation, squared, exact, at_least=None):
  """`exact`: it is the sensitivity; else an upper bound of it."""
  at_least = squared if exact else at_least
  return {
      'strategy': spec,
      'n': n,
      'participation': participation,
      'squared': float(squared),
      'exact': exact,
      'at_least': None if at_least is None else float(at_least),
  }


def min_sep_of(min_sep, most=None):
  return {'min_sep': min_sep, 'max_participations': most}


def sensitivities():
  for n in (1, 7, 48, 300):
    for bands in (1, 4, 24):
      if bands > n:
        continue
      coef = toeplitz.optimal_max_error_strategy_coefs(bands)
      spec = toeplitz_spec(coef.tolist())
      yield case(spec, n, 'single', toeplitz.sensitivity_squared(coef, n), True)
      for min_sep in sorted({1, 5, n // 8, n} - {0}):
        for most in (1, 3, None):
          if min_sep <= n:
            squared = toeplitz.minsep_sensitivity_squared(coef, min_sep, most, n)
            yield case(spec, n, min_sep_of(min_sep, most), squared, True)
  blt = buffered_toeplitz.BufferedToeplitz.from_rational_approx_to_sqrt_x(3, max_buf_decay=0.99)
  spec = blt_spec(blt.buf_decay.tolist(), blt.output_scale.tolist())
  for min_sep, most in ((1, 4), (20, 3), (100, None)):
    squared = toeplitz.minsep_sensitivity_squared(blt.toeplitz_coefs(250), min_sep, most)
    yield case(spec, 250, min_sep_of(min_sep, most), squared, True)
  yield from banded_sensitivities()
  yield from dense_sensitivities()


def banded_sensitivities():
  for n, bands in ((8, 3), (30, 4)):
    params = np.random.default_rng(n).uniform(-0.5, 1.0, (n, bands)).round(3)
    params[:, 0] = np.abs(params[:, 0]) + 0.5
    params = np.tril(params[::-1])[::-1]
    normal = {'kind': 'column_normalized_banded', 'params': params.tolist()}
    normal_c = np.asarray(banded.ColumnNormalizedBanded(params=jnp.array(params)).materialize())
    # Of one that is not normalised, it matters which columns are chosen.
    scale = np.random.default_rng(bands).uniform(0.5, 2.0, n).round(3)
    scaled = {'kind': 'scaled', 'matrix': normal, 'col_scale': scale.tolist()}
    for spec, c in ((normal, normal_c), (scaled, normal_c * scale)):
      c = jnp.array(c)
      yield case(spec, n, 'single', sensitivity.single_participation_sensitivity(c) ** 2, True)
      for min_sep, most in ((bands, None), (bands, 1), (bands, 2), (bands + 2, 3)):
        squared = sensitivity.get_sensitivity_banded(c, min_sep, most) ** 2
        yield case(spec, n, min_sep_of(min_sep, most), squared, True)


def dense_sensitivities():
  """General matrices: where no entry of the Gram matrix is negative, fixed epochs are exact."""
  for n, low in ((8, 0.0), (12, -1.0), (12, 0.0)):
    rows = np.tril(np.random.default_rng(n).uniform(low, 1.0, (n, n))).round(3) + 0.5 * np.eye(n)
    spec = {'kind': 'dense', 'rows': [row[: i + 1] for i, row in enumerate(rows.tolist())]}
    c, gram = jnp.array(rows), rows.T @ rows
    yield case(spec, n, 'single', sensitivity.single_participation_sensitivity(c) ** 2, True)
    for min_sep, most in ((1, 2), (2, None), (3, 2), (4, 3), (n, None)):
      bound = sensitivity.get_min_sep_sensitivity_upper_bound(c, min_sep, most) ** 2
      least = brute_force(gram, min_sep, -(-n // min_sep) if most is None else most)
      assert least <= bound * (1 + 1e-12)
      yield case(spec, n, min_sep_of(min_sep, most), bound, False, least)
    for epochs in (1, 2, 4):
      squared = sensitivity.fixed_epoch_sensitivity(c, epochs) ** 2
      apart = n // epochs
      chosen = [gram[i::apart, i::apart] for i in range(apart)]
      least = max(brute_force(sub, 1, epochs) for sub in chosen)
      yield case(spec, n, {'epochs': epochs}, squared, bool((gram >= 0).all()), least)
  # The whole pattern is one that keeps the least separation, and none has a larger norm.
  root = toeplitz.optimal_max_error_strategy_coefs(24)
  c = toeplitz.materialize_lower_triangular(root)
  for epochs in (2, 3, 8):
    squared = sensitivity.fixed_epoch_sensitivity(c, epochs) ** 2
    yield case(toeplitz_spec(root.tolist()), 24, {'epochs': epochs}, squared, True)


def geometric(ratio, count):
  return mpmath.mpf(count) if ratio == 1 else (1 - ratio**count) / (1 - ratio)


def output_scale_of(theta, theta_hat):
  product = lambda factors: mpmath.fprod(factors)
  return [
      product(t - s for s in theta_hat) / product(t - s for j, s in enumerate(theta) if j != i)
      for i, t in enumerate(theta)
  ]


def blt_values(decay, scale, sizes):
  """Everything about a BLT in many digits, by summing geometric series."""
  theta, omega = [[mpmath.mpf(x) for x in values] for values in (decay, scale)]
  buffers = len(theta)
  # The inverse decays with the roots of prod(x - theta) + sum(omega_k prod_{j != k}(x - theta_j)).
  polynomial = [mpmath.mpf(0)] * (buffers + 1)
  for skip in [None, *range(buffers)]:
    factor = [mpmath.mpf(1) if skip is None else omega[skip]]
    for j in range(buffers):
      if j != skip:
        shifted = factor + [mpmath.mpf(0)]
        factor = [a - theta[j] * b for a, b in zip(shifted, [mpmath.mpf(0)] + factor)]
    for i, value in enumerate(reversed(factor)):
      polynomial[-1 - i] += value
  roots = mpmath.polyroots(polynomial, maxsteps=2000, extraprec=2000)
  theta_hat = sorted((mpmath.re(root) for root in roots), reverse=True)
  assert all(abs(mpmath.im(root)) < mpmath.mpf(10) ** -40 for root in roots)
  omega_hat = output_scale_of(theta_hat, theta)
  # What the decoder's column is made of: 1 and powers of the inverse's decays.
  bases = [mpmath.mpf(1)] + theta_hat
  weights = [-w / (1 - t) for w, t in zip(omega_hat, theta_hat)]
  weights = [1 - mpmath.fsum(weights)] + weights
  pairs = [(a * b, s * t) for a, s in zip(weights, bases) for b, t in zip(weights, bases)]
  at_n = []
  for n in sizes:
    squares = [w * v * geometric(t * s, n - 1) for w, t in zip(omega, theta) for v, s in zip(omega, theta)]
    sensitivity_squared = 1 + mpmath.fsum(squares)
    max_error = mpmath.fsum(weight * geometric(ratio, n) for weight, ratio in pairs)
    total = lambda r: mpmath.mpf(n) * (n + 1) / 2 if r == 1 else (n - r * geometric(r, n)) / (1 - r)
    mean_error = mpmath.fsum(weight * total(ratio) for weight, ratio in pairs) / n
    at_n.append({
        'n': n,
        'sensitivity_squared': float(sensitivity_squared),
        'max_error': float(max_error),
        'mean_error': float(mean_error),
        'max_loss': float(sensitivity_squared * max_error),
        'last_coef': float(mpmath.fsum(w * t ** (n - 2) for w, t in zip(omega, theta))) if n > 1 else 1.0,
    })
  limit = 1 + mpmath.fsum(w * v / (1 - t * s) for w, t in zip(omega, theta) for v, s in zip(omega, theta))
  return {
      'buf_decay': list(decay),
      'output_scale': list(scale),
      'inverse_buf_decay': [float(x) for x in theta_hat],
      'inverse_output_scale': [float(x) for x in omega_hat],
      'at_n': at_n,
      'limit_sensitivity_squared': float(limit),
      'limit_max_error': float(weights[0] ** 2),
      'limit_max_loss': float(limit * weights[0] ** 2),
  }


def blts():
  sizes = (1, 2, 10, 1000, 100_000, 1_000_000)
  stable = []
  for buffers in range(1, 7):
    blt = buffered_toeplitz.BufferedToeplitz.from_rational_approx_to_sqrt_x(
        buffers, max_buf_decay=1 - 1e-6, max_pillutla_score=1 - 1e-6
    )
    stable.append((blt.buf_decay.tolist(), blt.output_scale.tolist()))
  stable.append(([0.9, 0.5], [0.25, 0.125]))
  for decay, scale in stable:
    values = blt_values(decay, scale, sizes)
    blt = buffered_toeplitz.BufferedToeplitz.build(decay, scale)
    close = lambda a, b: np.allclose(a, b, rtol=1e-5)
    inverse = blt.inverse()
    assert close(inverse.buf_decay, values['inverse_buf_decay'])
    assert close(inverse.output_scale, values['inverse_output_scale'])
    for at in values['at_n']:
      assert close(buffered_toeplitz.sensitivity_squared(blt, at['n']), at['sensitivity_squared'])
      assert close(buffered_toeplitz.max_error(inverse, at['n']), at['max_error']), at
      assert close(buffered_toeplitz.max_loss(blt, at['n']), at['max_loss'])
    assert close(buffered_toeplitz.limit_max_error(inverse), values['limit_max_error'])
    assert close(buffered_toeplitz.limit_max_loss(blt), values['limit_max_loss'])
    yield values
  # Decays near 1 and near each other, where jax_privacy's forms lose their digits.
  yield blt_values([1 - 1e-9, 0.99999, 0.999, 0.9, 0.3], [1e-5, 1e-3, 0.01, 0.1, 0.2], sizes)
  yield blt_values([0.95, 0.9499999, 0.5], [0.1, 0.1, 0.2], sizes)
  yield blt_values([1 - 1e-7, 1 - 1.1e-7], [1e-4, 2e-4], sizes)


def pairs():
  """Both output scales from both decays."""
  for theta, theta_hat in (
      ([0.99], [0.4]),
      ([0.999, 0.8, 0.2], [0.95, 0.5, 0.01]),
      ([1 - 1e-6, 0.9999, 0.98, 0.7, 0.1], [0.99999, 0.999, 0.9, 0.4, 0.05]),
  ):
    exact = [[mpmath.mpf(x) for x in values] for values in (theta, theta_hat)]
    scale = [float(x) for x in output_scale_of(*exact)]
    inverse_scale = [float(x) for x in output_scale_of(*reversed(exact))]
    c, inverse = buffered_toeplitz.blt_pair_from_theta_pair(jnp.array(theta), jnp.array(theta_hat))
    assert np.allclose(c.output_scale, scale, rtol=1e-9)
    assert np.allclose(inverse.output_scale, inverse_scale, rtol=1e-9)
    yield {
        'buf_decay': theta,
        'inverse_buf_decay': theta_hat,
        'output_scale': scale,
        'inverse_output_scale': inverse_scale,
    }


def calibrations():
  """Noise multipliers of the Gaussian mechanism (arXiv 1805.06530), in 50 digits."""
  normal = mpmath.ncdf

  def log_delta(sigma, epsilon):
    a, b = 1 / (2 * sigma), epsilon * sigma
    return mpmath.log(normal(a - b) - mpmath.exp(epsilon) * normal(-a - b))

  def root(function, near):
    ends = near * (1 - mpmath.mpf(10) ** -4), near * (1 + mpmath.mpf(10) ** -4)
    return mpmath.findroot(function, ends, solver='anderson', tol=mpmath.mpf(10) ** -60)

  for epsilon in (0.01, 0.1, 0.5, 1.0, 2.0, 8.0, 50.0):
    for delta in (1e-3, 1e-5, 1e-6, 1e-10, 1e-30):
      peer = float(dp_accounting.get_sigma_gaussian(epsilon, delta))
      target = mpmath.log(mpmath.mpf(delta))
      sigma = root(lambda sigma: log_delta(sigma, mpmath.mpf(epsilon)) - target, mpmath.mpf(peer))
      assert abs(float(sigma) / peer - 1) < 1e-6, (epsilon, delta, peer, float(sigma))
      yield {'epsilon': epsilon, 'delta': delta, 'noise_multiplier': float(sigma)}
  for sigma in (0.3, 1.0, 4.0, 30.0):
    for delta in (1e-3, 1e-6, 1e-12):
      peer = float(dp_accounting.get_epsilon_gaussian(sigma, delta))
      target = mpmath.log(mpmath.mpf(delta))
      epsilon = root(lambda epsilon: log_delta(mpmath.mpf(sigma), epsilon) - target, mpmath.mpf(peer))
      assert abs(float(epsilon) / peer - 1) < 1e-6, (sigma, delta, peer, float(epsilon))
      yield {'noise_multiplier': sigma, 'delta': delta, 'epsilon': float(epsilon)}


def losses(keep):
  """jax_privacy's optima: the loss of each."""

  class Late(Exception):
    pass

  def late(*_):
    raise Late(f'over {MOST_SECONDS} s')

  signal.signal(signal.SIGALRM, late)
  known = {}
  if keep.exists():
    known = {json.dumps(entry['setting']): entry for entry in map(json.loads, keep.read_text().splitlines())}
  for setting in settings():
    entry = known.get(json.dumps(setting))
    if entry is None:
      entry = {'setting': setting}
      signal.alarm(MOST_SECONDS)
      try:
        spec, entry['seconds'] = analysis.optimize(setting)
        signal.alarm(0)
        entry |= {'strategy': spec, 'loss': analysis.loss(setting, spec)}
      except (Late, RuntimeError, AssertionError) as error:
        entry['error'] = str(error).splitlines()[0]
      finally:
        signal.alarm(0)
      keep.parent.mkdir(parents=True, exist_ok=True)
      with keep.open('a') as file:
        file.write(json.dumps(entry) + '\n')
    if 'error' in entry:
      print(f'without {setting}: {entry["error"]}', file=sys.stderr)
      continue
    yield setting | {'loss': entry['loss']}
    if setting['family'] == 'banded_toeplitz' and setting['bands'] <= setting['n'] // 8:
      # Eight participations, at least as far apart as there are bands: the same strategy, eight times the loss.
      eight = {'min_sep': setting['n'] // 8, 'max_participations': 8}
      yield setting | eight | {'loss': 8 * entry['loss']}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--keep', type=pathlib.Path, default=pathlib.Path('target/losses.jsonl'))
  parser.add_argument('--only', choices=('values', 'losses'))
  arguments = parser.parse_args()
  mpmath.mp.dps = 80
  target = HERE / 'analysis.json'
  before = json.loads(target.read_text()) if arguments.only else {}
  packages = ('jax', 'jax_privacy', 'numpy', 'scipy', 'dp-accounting', 'mpmath')
  sections = {'made_with': {package: metadata.version(package) for package in packages}}
  for section in (errors, sensitivities, blts, pairs, calibrations):
    name = section.__name__
    sections[name] = before[name] if arguments.only == 'losses' else list(section())
  sections['losses'] = before['losses'] if arguments.only == 'values' else list(losses(arguments.keep))
  text = []
  for name, values in sections.items():
    if isinstance(values, dict):
      text.append(f'  {json.dumps(name)}: {json.dumps(values)}')
    else:
      lines = ',\n'.join('    ' + json.dumps(value) for value in values)
      text.append(f'  {json.dumps(name)}: [\n{lines}\n  ]')
  target.write_text('{\n' + ',\n'.join(text) + '\n}\n')


if __name__ == '__main__':
  main()
