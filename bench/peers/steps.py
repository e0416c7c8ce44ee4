"""Steps of a matrix in a Python library, timed on request.

Reads one JSON object a line from standard input and answers each with one line. `set_up` builds the matrix as a good
user of the library would and warms it up, `steps` times some.
"""

import json
import sys
import time


LARGE_STATE_BYTES = 3e9


def median(values):
  return sorted(values)[len(values) // 2]


def timed(step, count):
  seconds = []
  for _ in range(count):
    start = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - start)
  return seconds


def jax_matrix(spec, precision='float32'):
  """The StreamingMatrix of a specification."""
  import jax.numpy as jnp
  from jax_privacy.matrix_factorization import banded
  from jax_privacy.matrix_factorization import buffered_toeplitz
  from jax_privacy.matrix_factorization import streaming_matrix
  from jax_privacy.matrix_factorization import toeplitz

  kind = spec['kind']
  if kind == 'prefix_sum':
    return streaming_matrix.prefix_sum()
  if kind == 'momentum_sgd':
    return streaming_matrix.momentum_sgd_matrix(spec['momentum'])
  if kind == 'product':
    left, right = (jax_matrix(factor, precision) for factor in spec['factors'])
    return left @ right
  if kind == 'inverse':
    c = spec['matrix']
    if c['kind'] == 'toeplitz':
      return toeplitz.inverse_as_streaming_matrix(jnp.array(c['coef'], precision))
    if c['kind'] == 'buffered_toeplitz':
      blt = buffered_toeplitz.BufferedToeplitz(
          buf_decay=jnp.array(c['buf_decay'], precision),
          output_scale=jnp.array(c['output_scale'], precision),
      )
      return blt.inverse_as_streaming_matrix()
    if c['kind'] == 'column_normalized_banded':
      params = jnp.array(c['params'], precision)
      return banded.ColumnNormalizedBanded(params=params).inverse_as_streaming_matrix()
  raise ValueError(f'no peer for {kind}')


def jitted(function, x, init):
  """A step `y, state = function(x, state)`, jitted, its state donated or not, whichever is faster here."""
  import jax
  import jax.numpy as jnp

  def make(donate):
    step = jax.jit(function, donate_argnums=(1,) if donate else ())
    state = [jax.tree.map(jnp.array, init(x))]

    def run():
      y, state[0] = step(x, state[0])
      jax.block_until_ready((y, state[0]))

    return run

  def time_of(donate):
    run = make(donate)
    timed(run, 3)
    return median(timed(run, 5))

  state_bytes = sum(4 * leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, x)))
  # Not donated, there are two states at a time: too much for a small machine where one is large.
  donate = state_bytes > LARGE_STATE_BYTES or time_of(True) < time_of(False)
  return 'donated' if donate else 'undonated', make(donate)


def jax_step(spec, lanes):
  """A step of a matrix."""
  import jax.numpy as jnp

  matrix = jax_matrix(spec)
  x = jnp.asarray((jnp.arange(lanes) % 1000) * 0.002 - 1.0, dtype=jnp.float32)
  return jitted(matrix.multiply_next, x, matrix.init_multiply)


def numpy_step(spec, lanes):
  """A step written with in-place operations and kept buffers."""
  import numpy as np

  x = ((np.arange(lanes) % 1000) * 0.002 - 1.0).astype(np.float32)
  y, scratch = np.empty_like(x), np.empty_like(x)
  zeros = lambda count: [np.zeros_like(x) for _ in range(count)]
  kind = spec['kind']
  if 4 * lanes * len(spec.get('matrix', {}).get('coef', ())) > LARGE_STATE_BYTES:
    raise ValueError('its state would leave too little memory for the others')
  if kind == 'prefix_sum':
    (s,) = zeros(1)
    return 'in place', lambda: np.add(s, x, out=s)
  if kind == 'momentum_sgd':
    m, r = zeros(2)

    def momentum():
      np.multiply(m, np.float32(spec['momentum']), out=m)
      np.add(m, x, out=m)
      np.add(r, m, out=r)

    return 'in place', momentum
  c = spec.get('matrix', {})
  if kind == 'inverse' and c['kind'] == 'buffered_toeplitz':
    buffers = zeros(len(c['buf_decay']))
    decay = np.float32(c['buf_decay'])
    scale = np.float32(c['output_scale'])

    def blt():
      np.copyto(y, x)
      for s, w in zip(buffers, scale):
        np.multiply(s, w, out=scratch)
        np.subtract(y, scratch, out=y)
      for s, theta in zip(buffers, decay):
        np.multiply(s, theta, out=s)
        np.add(s, y, out=s)

    return 'in place', blt
  if kind == 'inverse' and c['kind'] == 'toeplitz':
    coef = np.float32(c['coef'])
    ring = zeros(len(coef) - 1)
    t = [0]

    def toeplitz():
      np.copyto(y, x)
      for back in range(1, len(coef)):
        np.multiply(ring[(t[0] - back) % len(ring)], coef[back], out=scratch)
        np.subtract(y, scratch, out=y)
      np.divide(y, coef[0], out=y)
      np.copyto(ring[t[0] % len(ring)], y)
      t[0] += 1

    return 'in place', toeplitz
  raise ValueError(f'no peer for {kind}')


def numpy_normal(generator):
  """Standard normals of a NumPy generator, into a kept buffer."""

  def set_up(_, lanes):
    import numpy as np

    random = np.random.Generator(getattr(np.random, generator)(7))
    out = np.empty(lanes, np.float32)
    return 'kept buffer', lambda: random.standard_normal(dtype=np.float32, out=out)

  return set_up


def jax_normal(_, lanes):
  """jax.random.normal, jitted, another key at each step."""
  import jax
  import jax.numpy as jnp

  @jax.jit
  def draw(key, t):
    return jax.random.normal(jax.random.fold_in(key, t), (lanes,), jnp.float32)

  key, t = jax.random.key(7), [0]

  def run():
    t[0] += 1
    jax.block_until_ready(draw(key, t[0]))

  return 'jitted', run


def jax_privatizer(spec, lanes):
  """A step of matrix_factorization_privatizer."""
  import jax.numpy as jnp
  from jax_privacy import noise_addition

  privatizer = noise_addition.matrix_factorization_privatizer(jax_matrix(spec), stddev=1.0, prng_key=7)
  return jitted(privatizer.update, jnp.zeros(lanes, jnp.float32), privatizer.init)


LIBRARIES = {
    'jax_privacy': jax_step,
    'numpy': numpy_step,
    'numpy_pcg64': numpy_normal('PCG64'),
    'numpy_sfc64': numpy_normal('SFC64'),
    'jax_normal': jax_normal,
    'jax_privatizer': jax_privatizer,
}


def main():
  library = LIBRARIES[sys.argv[1]]
  step = None
  for line in sys.stdin:
    request = json.loads(line)
    try:
      match request['do']:
        case 'set_up':
          form, step = library(request['matrix'], request['lanes'])
          timed(step, 2)
          answer = {'form': form}
        case 'steps':
          answer = {'seconds': timed(step, request['count'])}
    except (ValueError, MemoryError, RuntimeError) as error:
      answer = {'error': f'{type(error).__name__}: {error}'.splitlines()[0]}
    print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
