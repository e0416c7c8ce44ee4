"""What the noise of a training run guarantees."""

from typing import Any

import pytest

import noised
from noised.errors import InvalidArgumentError


def test_epsilon_of_sampled_steps() -> None:
    # dp_accounting 0.6.0: 6.187713 at an interval of 1e-5.
    found = noised.epsilon(10_000, noised.Sampling.poisson(0.01), noise_multiplier=1.0, delta=1e-5)
    assert 6.187 < found < 6.187713 * 1.001


def test_what_two_of_three_give() -> None:
    sampling = noised.Sampling.cyclic_poisson(0.1, bands=4)
    found = noised.account(100, sampling, epsilon=2.0, delta=1e-6)
    assert found.epsilon <= 2.0
    assert found.method == "pld"
    assert found.adjacency == "add_or_remove"
    back = noised.account(100, sampling, noise_multiplier=found.noise_multiplier, delta=1e-6)
    assert back.epsilon == found.epsilon
    assert back.lower is not None
    assert back.lower <= back.epsilon
    there = noised.account(100, sampling, noise_multiplier=found.noise_multiplier, epsilon=back.epsilon)
    assert 0.98e-6 < there.delta < 1.01e-6


def test_a_strategy_has_to_fit() -> None:
    plain = noised.account(16, noise_multiplier=2.0, delta=1e-6, strategy=noised.identity())
    assert plain.method == "gaussian"
    assert plain.sensitivity == 1.0
    assert plain.stddev == 2.0
    sampling = noised.Sampling.cyclic_poisson(0.1, bands=2)
    with pytest.raises(InvalidArgumentError) as refused:
        noised.account(16, sampling, noise_multiplier=2.0, delta=1e-6, strategy=noised.prefix_sum())
    assert refused.value.field == "strategy"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"sampling": noised.Sampling.poisson(0.0)}, "sampling_probability"),
        ({"sampling": noised.Sampling.poisson(1.5)}, "sampling_probability"),
        ({"sampling": noised.Sampling.cyclic_poisson(0.1, 17)}, "bands"),
        ({"sampling": noised.Sampling.fixed_size(6, 5)}, "batch_size"),
        ({"sampling": noised.Sampling.fixed_size(1, 5), "noise_multiplier": 0.0}, "noise_multiplier"),
        ({"delta": 1.0}, "delta"),
        ({"epsilon": 1.0}, "noise_multiplier"),
    ],
)
def test_wrong_arguments_name_the_field(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        noised.account(16, **{"noise_multiplier": 1.0, "delta": 1e-6, **arguments})
    assert refused.value.field == field
