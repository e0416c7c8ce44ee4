"""Writes accounting.json: epsilons and deltas of sampled training runs that noised is compared with.

    python -m venv venv
    venv/bin/pip install dp_accounting==0.6.0 mpmath==1.4.1
    venv/bin/python tests/golden/make_accounting.py

Values only: what the accountants of dp_accounting give, each with the discretisation interval that it had, and what mpmath
gives for one round and for two by integration in 30 digits. `--time` prints how long dp_accounting takes instead, for the
runs that `examples/accounting_time.rs` times.
"""

import argparse
import json
import pathlib
import time
from importlib import metadata

import dp_accounting as dp
import mpmath
from dp_accounting import pld
from dp_accounting import rdp

HERE = pathlib.Path(__file__).parent

# (sampling probability, noise multiplier), rounds, delta, interval of dp_accounting.
COMPOSITIONS = [
    ([(0.01, 1.0, 10_000)], 1e-5, 1e-5),
    ([(0.01, 0.7, 1_000)], 1e-6, 1e-5),
    ([(0.001, 0.8, 10_000)], 1e-5, 1e-5),
    ([(0.001, 0.5, 2_000)], 1e-5, 1e-4),
    ([(0.02, 1.1, 3_000)], 1e-5, 1e-5),
    ([(0.004, 1.3, 14_000)], 1e-6, 1e-5),
    ([(0.1, 2.0, 500)], 1e-5, 1e-5),
    ([(0.1, 4.0, 2_000)], 1e-8, 1e-5),
    ([(0.5, 8.0, 1_000)], 1e-5, 1e-5),
    ([(0.9, 5.0, 100)], 1e-5, 1e-5),
    ([(0.3, 2.0, 100)], 1e-8, 1e-5),
    ([(0.01, 1.0, 100)], 1e-5, 1e-5),
    ([(0.05, 0.6, 10)], 1e-4, 1e-5),
    ([(0.01, 1.0, 1)], 1e-5, 1e-5),
    ([(0.2, 1.0, 1)], 1e-3, 1e-5),
    ([(0.01, 1.0, 1_000), (0.02, 1.5, 2_000)], 1e-5, 1e-5),
    ([(0.05, 1.0, 100), (1.0, 5.0, 3), (0.001, 0.6, 500)], 1e-6, 1e-5),
    ([(0.0625, 1.2, 63)], 1e-6, 1e-5),
]

# Runs of 10^4 rounds that are timed.
TIMED = [(0.01, 1.0), (0.001, 0.8), (0.02, 2.0)]


def accountant(rounds, interval):
  found = pld.PLDAccountant(value_discretization_interval=interval)
  for q, s, count in rounds:
    found.compose(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(s)), count)
  return found


def compositions():
  for rounds, delta, interval in COMPOSITIONS:
    found = accountant(rounds, interval)
    epsilon = found.get_epsilon(delta)
    middle = 0.75 * epsilon
    yield {
        'rounds': rounds, 'delta': delta, 'interval': interval, 'epsilon': epsilon,
        'of_epsilon': middle, 'delta_found': found.get_delta(middle),
    }


def pair(q, s, add):
  """The density of P, the privacy loss, and the exact curve of one round."""
  ratio = lambda x: mpmath.log(1 - q + q * mpmath.exp((2 * x - 1) / (2 * s * s)))
  upper = lambda z: mpmath.erfc(z / mpmath.sqrt(2)) / 2
  mixture = lambda x: (1 - q) * upper(x / s) + q * upper((x - 1) / s)

  def curve(epsilon):
    level = (mpmath.exp(-epsilon if add else epsilon) - (1 - q)) / q
    if level <= 0:
      return mpmath.mpf(0) if add else 1 - mpmath.exp(epsilon)
    at = s * s * mpmath.log(level) + mpmath.mpf(1) / 2
    if add:
      return (1 - upper(at / s)) - mpmath.exp(epsilon) * (1 - mixture(at))
    return mixture(at) - mpmath.exp(epsilon) * upper(at / s)

  density = lambda x: mpmath.npdf(x, 0, s) if add else (1 - q) * mpmath.npdf(x, 0, s) + q * mpmath.npdf(x, 1, s)
  loss = lambda x: -ratio(x) if add else ratio(x)
  return density, loss, curve


def integrals():
  """One round and two, in both directions."""
  mpmath.mp.dps = 30
  one = [((0.01, 1.0),), ((0.2, 1.0),), ((0.5, 0.5),), ((0.9, 3.0),)]
  two = [((0.1, 1.0), (0.1, 1.0)), ((0.3, 0.8), (0.05, 2.0)), ((0.9, 3.0), (0.5, 1.5))]
  for rounds in one + two:
    pairs = [[mpmath.mpf(str(x)) for x in round] for round in rounds]
    for epsilon in (0.0, 0.005, 0.1, 0.5, 1.0, 2.0):
      deltas = []
      for add in (False, True):
        _, _, curve = pair(*pairs[0], add)
        if len(pairs) == 1:
          deltas.append(curve(mpmath.mpf(epsilon)))
          continue
        density, loss, _ = pair(*pairs[1], add)
        s = pairs[1][1]
        points = [-18 * s + 36 * s * i / 60 for i in range(61)] + [18 * s + 1]
        deltas.append(mpmath.quad(lambda x: density(x) * curve(epsilon - loss(x)), points))
      yield {'rounds': [[*round, 1] for round in rounds], 'epsilon': epsilon,
             'remove': mpmath.nstr(deltas[0], 20), 'add': mpmath.nstr(deltas[1], 20)}


def renyi():
  """Whole orders by dp_accounting, whose series for others is above the integral, by which they are computed here."""
  mpmath.mp.dps = 30
  for q, s in ((0.01, 1.0), (0.1, 2.0), (0.5, 0.8)):
    for order in (2, 3, 8, 32, 64):
      found = rdp.RdpAccountant([order])
      found.compose(dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(s)))
      yield {'sampling_probability': q, 'noise_multiplier': s, 'order': order, 'divergence': float(found._rdp[0])}
    for order in (1.25, 1.5, 2.75, 16.5):
      odds = lambda x: 1 - mpmath.mpf(str(q)) + mpmath.mpf(str(q)) * mpmath.exp((2 * x - 1) / (2 * mpmath.mpf(str(s))**2))
      term = lambda x: mpmath.npdf(x, 0, s) * odds(x)**order
      moment = mpmath.quad(term, [mpmath.mpf(i) / 2 for i in range(-80, 140)])
      yield {'sampling_probability': q, 'noise_multiplier': s, 'order': order,
             'divergence': mpmath.nstr(mpmath.log(moment) / (order - 1), 20)}


def fixed_sizes():
  # Replacing moves a clipped sum by twice the clip norm; dp_accounting takes the noise over that.
  for batch, examples, s, steps, delta in ((100, 10_000, 4.0, 1_000, 1e-6), (512, 60_000, 2.0, 2_000, 1e-6),
                                           (10, 1_000, 8.0, 500, 1e-5), (1_000, 1_000, 20.0, 10, 1e-5)):
    found = rdp.RdpAccountant(list(range(2, 513)), dp.NeighboringRelation.REPLACE_ONE)
    gaussian = dp.GaussianDpEvent(s / 2)
    event = gaussian if batch == examples else dp.SampledWithoutReplacementDpEvent(examples, batch, gaussian)
    found.compose(event, steps)
    yield {'batch_size': batch, 'examples': examples, 'noise_multiplier': s, 'steps': steps, 'delta': delta,
           'epsilon': found.get_epsilon(delta)}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--time', action='store_true')
  if parser.parse_args().time:
    for q, s in TIMED:
      started = time.perf_counter()
      epsilon = accountant([(q, s, 10_000)], 1e-4).get_epsilon(1e-5)
      print(f'q {q}, noise multiplier {s}: epsilon {epsilon:.6f} in {1e3 * (time.perf_counter() - started):.1f} ms')
    return
  versions = {name: metadata.version(name) for name in ('dp_accounting', 'mpmath')}
  found = {'made_with': versions, 'compositions': list(compositions()), 'integrals': list(integrals()),
           'renyi': list(renyi()), 'fixed_sizes': list(fixed_sizes())}
  (HERE / 'accounting.json').write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
  main()
