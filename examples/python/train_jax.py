"""Trains a small network on digits in JAX with differential privacy, with three mechanisms at one (epsilon, delta).

python examples/python/train_jax.py --plot digits.svg
python examples/python/train_jax.py --short --server local:
"""

from __future__ import annotations

from typing import Any

import digits
import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits import Curve, Digits, Mechanism, Setup

import noised.jax

#: Units of the hidden layer.
HIDDEN = 32


def initial(seed: int) -> dict[str, dict[str, jax.Array]]:
    """The parameters that training starts from."""
    first, second = jax.random.split(jax.random.key(seed))
    return {
        "hidden": {
            "w": jax.random.normal(first, (digits.PIXELS, HIDDEN)) / digits.PIXELS**0.5,
            "b": jnp.zeros(HIDDEN),
        },
        "out": {
            "w": jax.random.normal(second, (HIDDEN, digits.CLASSES)) / HIDDEN**0.5,
            "b": jnp.zeros(digits.CLASSES),
        },
    }


def logits(params: Any, images: Any) -> Any:
    """What the network makes of images."""
    hidden = jnp.tanh(images @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["out"]["w"] + params["out"]["b"]


def loss(params: Any, image: Any, label: Any) -> jax.Array:
    """The cross-entropy of one example."""
    return -jax.nn.log_softmax(logits(params, image))[label]


def sum_of_clipped_grads(params: Any, images: Any, labels: Any, clip: float) -> Any:
    """The sum of the examples' gradients, each scaled down to norm `clip` where it is longer: over all its leaves. One that is
    not finite has no norm, and is left out."""

    def clipped(image: Any, label: Any) -> Any:
        gradient = jax.grad(loss)(params, image, label)
        norm = optax.tree.norm(gradient)
        scale = jnp.minimum(1, clip / (norm + 1e-12))
        return jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(norm), leaf * scale, 0), gradient)

    each = jax.vmap(clipped)(images, labels)
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), each)


@jax.jit
def accuracy(params: Any, images: Any, labels: Any) -> Any:
    """The share of images that are told right."""
    return (jnp.argmax(logits(params, images), axis=1) == labels).mean()


def train(data: Digits, setup: Setup, mechanism: Mechanism, client: noised.Client, seed: int) -> Curve:
    """Trains once.

    Args:
        data: Images.
        setup: The run.
        mechanism: Its noise, calibrated to the setup.
        client: Where the noise comes from.
        seed: Of the initialisation. The noise has no seed: its key is the server's.

    Returns:
        The accuracy on the test images after some steps.
    """
    # As many steps as the calibration is for, and not one more.
    privatizer = noised.jax.privatizer(
        mechanism.noising_matrix, stddev=mechanism.stddev, client=client, horizon=setup.steps
    )
    with privatizer:
        # Noise is added to the sum, and only then is it divided by the size of the batch, which is no secret.
        optimizer = optax.chain(
            privatizer, optax.scale(1 / setup.batch_size), optax.sgd(setup.rate(mechanism.name))
        )

        @jax.jit
        def step_of(params: Any, state: Any, images: Any, labels: Any) -> Any:
            gradients = sum_of_clipped_grads(params, images, labels, setup.clip)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        params = initial(seed)
        state = optimizer.init(params)
        curve: Curve = []
        for step in range(setup.steps):
            params, state = step_of(params, state, *data.batch(step, setup.batch_size))
            if (step + 1) % setup.evaluate_every == 0 or step + 1 == setup.steps:
                right = accuracy(params, data.test_images, data.test_labels)
                curve.append((step + 1, float(np.asarray(right))))
    return curve


def main() -> None:
    """Compares the mechanisms that the command line names."""
    short = Setup(epochs=2, seeds=1)
    setup, options = digits.arguments("Train on digits in JAX with differential privacy.", Setup(), short)
    data = digits.load()
    with digits.server(options.server) as target:
        client = noised.connect(target)

        def run(mechanism: Mechanism, seed: int) -> Curve:
            return train(data, setup, mechanism, client, seed)

        digits.compare(setup, options.mechanisms, run, options.plot)


if __name__ == "__main__":
    main()
