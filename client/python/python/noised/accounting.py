"""What the noise of a training run guarantees: epsilon and delta, with the amplification of its sampling."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from noised import _noised
from noised._check import is_a, maybe_real, maybe_whole, one_of, real, whole
from noised._html import table
from noised.errors import InvalidArgumentError
from noised.participation import Participation
from noised.streaming_matrix import StreamingMatrix, _json, _place

if TYPE_CHECKING:
    from noised.client import Client


@dataclass(frozen=True)
class Sampling:
    """How the examples of a step are chosen. Use `Sampling.none()`, `poisson`, `cyclic_poisson` or `fixed_size`.

    Attributes:
        scheme: `none`, `poisson`, `cyclic_poisson` or `fixed_size`.
        probability: Of an example, in a step in which it may take part.
        bands: The groups of examples that take turns.
        batch_size: The examples of a step.
        examples: All examples.
    """

    scheme: str
    probability: float | None = None
    bands: int | None = None
    batch_size: int | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        """Refuses what is of another type, by its name."""
        one_of("scheme", self.scheme, ("none", "poisson", "cyclic_poisson", "fixed_size"))
        checked = {
            "probability": maybe_real("sampling_probability", self.probability),
            "bands": maybe_whole("bands", self.bands),
            "batch_size": maybe_whole("batch_size", self.batch_size),
            "examples": maybe_whole("examples", self.examples),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def none(cls) -> Sampling:
        """Full batches, or epochs in any order: no amplification."""
        return cls("none")

    @classmethod
    def poisson(cls, probability: float) -> Sampling:
        """Every step takes every example with this probability (DP-SGD). The strategy is the identity."""
        return cls("poisson", probability=real("sampling_probability", probability))

    @classmethod
    def cyclic_poisson(cls, probability: float, bands: int) -> Sampling:
        """The examples are split into `bands` groups; step `t` takes every example of group `t % bands` with this
        probability. The strategy has at most `bands` bands (arXiv 2306.08153).
        """
        return cls(
            "cyclic_poisson",
            probability=real("sampling_probability", probability),
            bands=whole("bands", bands),
        )

    @classmethod
    def fixed_size(cls, batch_size: int, examples: int) -> Sampling:
        """Every step draws `batch_size` of `examples` without replacement. The strategy is the identity."""
        return cls(
            "fixed_size", batch_size=whole("batch_size", batch_size), examples=whole("examples", examples)
        )


@dataclass(frozen=True)
class Account:
    """What a training run guarantees. Epsilon and delta are upper bounds.

    Attributes:
        epsilon: The bound on the privacy loss.
        delta: The probability that it does not hold.
        noise_multiplier: The noise multiplier for which it holds.
        method: `gaussian`, `pld` or `rdp`.
        adjacency: `add_or_remove` or `replace`: in what neighbouring data sets differ.
        lower: A lower bound of the figure that was asked for, where there is one.
        interval: The distance of neighbouring losses in a privacy loss distribution.
        order: The order of a Renyi divergence.
        sensitivity: What the noise multiplier is over, for gradients clipped to norm 1, where a strategy was given.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    method: str
    adjacency: str
    lower: float | None
    interval: float | None
    order: int | None
    sensitivity: float | None = None

    @property
    def stddev(self) -> float | None:
        """The standard deviation of the noise for gradients clipped to norm 1, where a strategy was given."""
        return None if self.sensitivity is None else self.noise_multiplier * self.sensitivity

    def _repr_html_(self) -> str:
        return table([{name: value for name, value in asdict(self).items() if value is not None}])


def account(
    n: int,
    sampling: Sampling | None = None,
    *,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    strategy: StreamingMatrix | None = None,
    participation: Participation | None = None,
    client: Client | None = None,
) -> Account:
    """What `n` steps guarantee, or the noise that a guarantee takes.

    Two of `noise_multiplier`, `epsilon` and `delta` are given, and the third is found.

    Args:
        n: Steps.
        sampling: How the examples of a step are chosen; no amplification unless given.
        noise_multiplier: The standard deviation of the noise over the clipping norm times, with sampling, the largest
            column norm of the strategy, and without it the strategy's sensitivity.
        epsilon: The bound on the privacy loss.
        delta: The probability that it does not hold.
        strategy: `C`. It is checked to fit the sampling, and `Account.sensitivity` tells what the noise multiplier is over.
        participation: Without sampling: the steps in which one user's data may take part.
        client: Where it is computed; in this process unless given.
    """
    given = Sampling.none() if sampling is None else sampling
    is_a("sampling", given, Sampling, "a noised.Sampling")
    steps = whole("n", n)
    multiplier = maybe_real("noise_multiplier", noise_multiplier)
    bound, chance = maybe_real("epsilon", epsilon), maybe_real("delta", delta)
    place = _place(client)
    unit = None
    pattern = Participation() if participation is None else participation
    is_a("participation", pattern, Participation, "a noised.Participation")
    if strategy is not None:
        unit = _noised.accounting_unit(place, given, _json("strategy", strategy), steps, pattern)
    elif participation is not None:
        raise InvalidArgumentError(field="strategy", rule="must be given beside a participation")
    found = _noised.account(place, given, steps, multiplier, bound, chance)
    return Account(**found, sensitivity=unit)


def epsilon(
    n: int,
    sampling: Sampling | None = None,
    *,
    noise_multiplier: float,
    delta: float,
    client: Client | None = None,
) -> float:
    """An upper bound of the epsilon of `n` steps at a delta: `account(...).epsilon`."""
    return account(n, sampling, noise_multiplier=noise_multiplier, delta=delta, client=client).epsilon
