"""Training as jax_privacy has it. docs/training.md changes a few of its lines, and test_peer.py runs both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax_privacy import clipping
from jax_privacy import noise_addition
from jax_privacy.matrix_factorization import toeplitz

STEPS, MIN_SEP, EPOCHS, BATCH, CLIP = 40, 10, 4, 16, 1.0

rng = np.random.default_rng(0)
features = rng.normal(size=(MIN_SEP * BATCH, 5)).astype(np.float32)
targets = (features @ np.arange(5)).astype(np.float32)


def loss(params, batch):
  x, y = batch
  return jnp.mean((x @ params['w'] + params['b'] - y) ** 2)


def train(noise_multiplier, steps=STEPS):
  # One example takes part every MIN_SEP steps, so columns that far apart do not overlap.
  coef = toeplitz.optimize_banded_toeplitz(STEPS, bands=MIN_SEP)
  noising_matrix = toeplitz.inverse_as_streaming_matrix(coef)
  sensitivity = float(np.linalg.norm(coef)) * EPOCHS**0.5
  stddev = noise_multiplier * CLIP * sensitivity

  privatizer = noise_addition.matrix_factorization_privatizer(
      noising_matrix, stddev=stddev, prng_key=jax.random.key(42)
  )

  grad_fn = clipping.clipped_grad(loss, l2_clip_norm=CLIP)
  optimizer = optax.sgd(0.5)
  params = {'w': jnp.zeros(5), 'b': jnp.zeros(())}
  noise_state = privatizer.init(params)
  opt_state = optimizer.init(params)

  @jax.jit
  def update(params, noise_state, opt_state, batch):
    clipped = grad_fn(params, batch)
    noisy, noise_state = privatizer.update(sum_of_clipped_grads=clipped, noise_state=noise_state)
    mean = jax.tree.map(lambda g: g / BATCH, noisy)
    updates, opt_state = optimizer.update(mean, opt_state, params)
    return optax.apply_updates(params, updates), noise_state, opt_state

  for step in range(steps):
    rows = slice(step % MIN_SEP * BATCH, (step % MIN_SEP + 1) * BATCH)
    batch = (features[rows], targets[rows])
    params, noise_state, opt_state = update(params, noise_state, opt_state, batch)
  return params


if __name__ == '__main__':
  print(train(noise_multiplier=1.0))
