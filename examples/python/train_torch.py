"""Trains a small network on scikit-learn's digits with differential privacy, in PyTorch.

    python examples/python/train_torch.py --plot digits.svg

Each step clips the gradient of every example of its batch, sums them, and adds noise that a server draws. Three ways to
correlate that noise are compared at the same epsilon and delta: not at all (DP-SGD), by a BLT, and by a banded matrix.
"""

from __future__ import annotations

import torch
from digits import PIXELS, Curve, Digits, Mechanism, Setup, arguments, compare, load, server
from torch.func import functional_call, grad, vmap

from noised.torch import Privatizer


def network(seed: int) -> torch.nn.Module:
    """One hidden layer, as a seed initialises it."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(PIXELS, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))


def put_clipped_sum(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, clip: float) -> None:
    """Makes every `p.grad` its part of the sum of the examples' gradients, each clipped to a norm of `clip`. One that is not
    finite has no norm, and is left out."""

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(functional_call(model, parameters, (image,)), label)

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    # One gradient an example: vmap runs the gradient of one over all.
    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    squares = [gradient.flatten(start_dim=1).square().sum(dim=1) for gradient in each.values()]
    norms = torch.stack(squares).sum(dim=0).sqrt()
    factors = clip / norms.clamp(min=clip)
    for name, parameter in model.named_parameters():
        shape = [-1] + [1] * parameter.dim()
        finite = torch.where(norms.isfinite().view(shape), each[name], 0.0)
        parameter.grad = torch.einsum("i,i...->...", factors.nan_to_num(), finite)


def accuracy(model: torch.nn.Module, digits: Digits) -> float:
    """The share of test images that are told right."""
    with torch.no_grad():
        told = model(torch.from_numpy(digits.test_images)).argmax(dim=1).numpy()
    return float((told == digits.test_labels).mean())


def train(digits: Digits, setup: Setup, mechanism: Mechanism, seed: int, target: str) -> Curve:
    """Trains once, and gives the accuracy after some steps."""
    model = network(seed)
    # The noise is added to the sum of a batch's gradients, and the rate is meant for their mean.
    rate = setup.rate(mechanism.name) / setup.batch_size
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    curve: Curve = []
    with Privatizer(
        model, mechanism.noising_matrix, mechanism.stddev, client=target, horizon=setup.steps
    ) as privatizer:
        for step in range(setup.steps):
            images, labels = digits.batch(step, setup.batch_size)
            put_clipped_sum(model, torch.from_numpy(images), torch.from_numpy(labels).long(), setup.clip)
            privatizer.add_noise()
            optimizer.step()
            if (step + 1) % setup.evaluate_every == 0 or step + 1 == setup.steps:
                curve.append((step + 1, accuracy(model, digits)))
    return curve


def main() -> None:
    setup, given = arguments(
        "Trains on digits with differential privacy, in PyTorch.", Setup(), Setup(epochs=2, seeds=1)
    )
    digits = load()
    with server(given.server) as target:
        compare(
            setup,
            given.mechanisms,
            lambda mechanism, seed: train(digits, setup, mechanism, seed, target),
            given.plot,
        )


if __name__ == "__main__":
    main()
