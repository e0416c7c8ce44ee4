"""Which strategy is best, and what one achieves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from noised import _noised
from noised._check import is_a, maybe_call, maybe_real, maybe_whole, one_of, real, whole
from noised._html import table
from noised.errors import InvalidArgumentError
from noised.participation import Participation
from noised.streaming_matrix import StreamingMatrix, _json, _place, _said

if TYPE_CHECKING:
    from noised.client import Client

#: The families of strategies.
Family = Literal[
    "banded_toeplitz", "banded_inverse_toeplitz", "buffered_toeplitz", "column_normalized_banded", "dense"
]
#: What is minimised: the mean of the squared errors, or the largest.
Objective = Literal["mean", "max"]

#: What the size of a family is called, where it is not `bands`.
_SIZE_OF = {"buffered_toeplitz": "buffers", "dense": ""}

OnProgress = Callable[[str, int, float], object]


@dataclass(frozen=True)
class Sensitivity:
    """How much one user's data can change what a strategy measures, in L2.

    Attributes:
        squared: Its square.
        exact: Whether it is the sensitivity itself; else an upper bound, with which noise may safely be calibrated.
        rule: What it comes from.
        precision: The precision of the session whose sensitivity it is, `f32` or `f64`; empty in a design.
        told: The sensitivity as it was told, where it was: `value` is that.
    """

    squared: float
    exact: bool
    rule: str
    precision: str = ""
    told: float | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "squared", real("squared", self.squared))

    @property
    def value(self) -> float:
        """The sensitivity, rounded up: gradients clipped to norm `c` take noise of `noise_multiplier * c * value`."""
        if self.told is not None:
            return self.told
        # Of less than 0, NaN, which every question refuses.
        if not self.squared > 0:
            return 0.0 if self.squared == 0 else math.nan
        return math.nextafter(math.sqrt(self.squared), math.inf)


@dataclass(frozen=True)
class Design:
    """A strategy, and what it achieves.

    Attributes:
        strategy: `C`.
        noising_matrix: `C^-1`: what a session streams.
        sensitivity: For the participation that was asked for.
        mean: The mean squared error at noise of variance 1.
        max: The largest squared error at noise of variance 1.
        loss: The squared sensitivity times the objective: less is better.
        name: What it is, for people; empty where the caller knows.
        family: The family, as programs call it.
        planes: State values a lane of its noising matrix, in a recommendation.
        complete: Whether the search came to its end: False where `on_progress` or the deadline of a call ended it early.
    """

    strategy: StreamingMatrix
    noising_matrix: StreamingMatrix
    sensitivity: Sensitivity
    mean: float
    max: float
    loss: float
    name: str = ""
    family: str = ""
    planes: int | None = None
    complete: bool = True

    @property
    def strategy_coef(self) -> NDArray[np.float64]:
        """The coefficients of a Toeplitz strategy that is banded."""
        spec = json.loads(self.strategy.to_json())
        if spec["kind"] != "toeplitz":
            raise InvalidArgumentError(
                field="strategy", rule=f"must be banded Toeplitz, found {spec['kind']}"
            )
        return np.asarray(spec["coef"], np.float64)

    def __repr__(self) -> str:
        what = self.name or _said(self.strategy._spec)
        bound = "" if self.sensitivity.exact else "at most "
        return (
            f"<noised.Design {what}: loss {self.loss:.6g}, mean {self.mean:.6g}, max {self.max:.6g}, "
            f"sensitivity {bound}{self.sensitivity.value:.6g}{'' if self.complete else ', ended early'}>"
        )

    def _repr_html_(self) -> str:
        return table([_row(self)])

    @classmethod
    def _of(cls, found: dict[str, Any]) -> Design:
        return cls(
            StreamingMatrix.from_json(found["strategy"]),
            StreamingMatrix.from_json(found["noising_matrix"]),
            Sensitivity(
                found["sensitivity_squared"],
                found["exact"],
                found["rule"],
                told=found["sensitivity"],
            ),
            found["mean"],
            found["max"],
            found["loss"],
            found.get("name", ""),
            found.get("family", ""),
            found.get("planes"),
            found["complete"],
        )


@dataclass(frozen=True)
class Recommendation:
    """The strategies that fit, compared.

    Attributes:
        candidates: The one to use first, then the others, by rising loss.
        reason: Which to use and why, in a few sentences.
        complete: Whether all were compared: False where `on_progress` or the deadline of a call ended it early.
    """

    candidates: list[Design]
    reason: str
    complete: bool = True

    @property
    def best(self) -> Design:
        """The one to use."""
        return self.candidates[0]

    def __repr__(self) -> str:
        return f"<noised.Recommendation of {len(self.candidates)}: {self.reason}>"

    def _repr_html_(self) -> str:
        return f"{table([_row(candidate) for candidate in self.candidates])}<p>{escape(self.reason)}</p>"


@dataclass(frozen=True)
class Calibration:
    """A noise, and the privacy that it gives.

    Attributes:
        noise_multiplier: The standard deviation over the sensitivity.
        stddev: The standard deviation, for gradients clipped to norm 1.
        epsilon: For `delta`, where there is one.
        delta: The delta that `epsilon` is told for.
        rho: Of zero-concentrated differential privacy (arXiv 1605.02065, Proposition 1.6).
        mu: Of Gaussian differential privacy (arXiv 1905.02383, Theorem 1).
    """

    noise_multiplier: float
    stddev: float
    epsilon: float | None
    delta: float | None
    rho: float
    mu: float

    def _repr_html_(self) -> str:
        return table([{name: value for name, value in asdict(self).items() if value is not None}])


@dataclass
class _Problem:
    """What a strategy is designed for, as the native module reads it."""

    n: int
    participation: Participation
    objective: Objective
    workload: str | None

    @classmethod
    def of(
        cls,
        n: int,
        participation: Participation | None,
        objective: Objective,
        workload: StreamingMatrix | None,
    ) -> _Problem:
        pattern = Participation() if participation is None else participation
        return cls(
            whole("n", n),
            is_a("participation", pattern, Participation, "a noised.Participation"),
            one_of("objective", objective, get_args(Objective)),  # type: ignore[arg-type]  # It is one of them.
            None if workload is None else _json("workload", workload),
        )


def optimize(
    family: Family,
    n: int,
    *,
    bands: int | None = None,
    buffers: int | None = None,
    participation: Participation | None = None,
    objective: Objective = "mean",
    workload: StreamingMatrix | None = None,
    client: Client | None = None,
    on_progress: OnProgress | None = None,
) -> Design:
    """The best strategy of a family, and what it achieves.

    Args:
        family: `banded_toeplitz` (arXiv 2405.15913), `banded_inverse_toeplitz` (2505.12128), `buffered_toeplitz` (2404.16706,
            2408.08868), `column_normalized_banded` (2306.08153, 2405.15913) or `dense` (2202.08312, 2211.06530).
        n: Steps.
        bands: Non-zero diagonals, of the banded families: of the strategy or, of `banded_inverse_toeplitz`, of its inverse.
        buffers: Of `buffered_toeplitz`; as many as help unless given.
        participation: Which steps one user takes part in; one at most unless given.
        objective: What is minimised times the squared sensitivity: the `mean` of the squared errors, or the `max`.
        workload: What is wanted of the gradients; the prefix sum unless given.
        client: Where it is computed; in this process unless given.
        on_progress: Gets what is being optimised, the iteration and the loss. Where it returns False, the search ends with the
            best that was found so far; what it raises ends the search without.

    Raises:
        InvalidArgumentError: Names the field and the rule that it breaks.
    """
    one_of("family", family, get_args(Family))
    sizes = {"bands": bands, "buffers": buffers}
    name = _SIZE_OF.get(family, "bands")
    size = maybe_whole(name, sizes.pop(name, None))
    for name, given in sizes.items():
        if given is not None:
            raise InvalidArgumentError(field=name, rule=f"must not be set for the family {family}")
    problem = _Problem.of(n, participation, objective, workload)
    hear = maybe_call("on_progress", on_progress)
    return Design._of(_noised.optimize(_place(client), family, size, problem, hear))


def recommend(
    n: int,
    *,
    max_planes: int,
    participation: Participation | None = None,
    objective: Objective = "mean",
    workload: StreamingMatrix | None = None,
    client: Client | None = None,
    on_progress: OnProgress | None = None,
) -> Recommendation:
    """Compares the strategies whose noising matrix fits into the memory, and says which to use and why.

    Args:
        n: Steps.
        max_planes: State values a lane that the noising matrix may take: so many copies of the model.
        participation: Which steps one user takes part in; one at most unless given.
        objective: What is minimised times the squared sensitivity: the `mean` of the squared errors, or the `max`.
        workload: The prefix sum unless given.
        client: Where it is computed; in this process unless given.
        on_progress: As that of `optimize`.
    """
    asked = _Problem.of(n, participation, objective, workload)
    planes, hear = whole("max_planes", max_planes), maybe_call("on_progress", on_progress)
    found, reason, complete = _noised.recommend(_place(client), planes, asked, hear)
    return Recommendation([Design._of(candidate) for candidate in found], reason, complete)


def sensitivity(
    strategy: StreamingMatrix,
    n: int,
    participation: Participation | None = None,
    *,
    precision: str | None = None,
    client: Client | None = None,
) -> Sensitivity:
    """The sensitivity of the leading `n x n` block of a strategy `C`.

    Args:
        strategy: `C`.
        n: Steps.
        participation: Which steps one user's data may take part in; in one unless given.
        precision: The precision of the session that runs the inverse of `C`, `f32` or `f64`. A session rounds the numbers of
            its recurrences to it, and what it protects is the strategy whose inverse has the rounded numbers. Unless given,
            the larger sensitivity of the two, which is safe for both.
        client: Where it is computed; in this process unless given.
    """
    pattern = Participation() if participation is None else participation
    is_a("participation", pattern, Participation, "a noised.Participation")
    described = _json("strategy", strategy)
    value, squared, exact, rule, of = _noised.sensitivity(
        _place(client), described, whole("n", n), pattern, precision
    )
    return Sensitivity(squared, exact, rule, of, value)


def query_errors(
    noising_matrix: StreamingMatrix,
    n: int,
    *,
    workload: StreamingMatrix | None = None,
    client: Client | None = None,
) -> NDArray[np.float64]:
    """The expected squared error of each of the first `n` queries of `workload`, the prefix sum unless given, at noise of
    variance 1: the squared row norms of `A C^-1`."""
    asked = None if workload is None else _json("workload", workload)
    noising = _json("noising_matrix", noising_matrix)
    return _noised.query_errors(_place(client), noising, asked, whole("n", n))[0]


def calibrate(
    sensitivity: float | Sensitivity,
    *,
    epsilon: float | None = None,
    delta: float | None = None,
    rho: float | None = None,
    mu: float | None = None,
    noise_multiplier: float | None = None,
    client: Client | None = None,
) -> Calibration:
    """The noise that one Gaussian mechanism of this sensitivity takes, without amplification by sampling.

    Args:
        sensitivity: The L2 sensitivity: of the strategy, times the clipping norm.
        epsilon: Reach `(epsilon, delta)` differential privacy (arXiv 1805.06530, Theorem 8).
        delta: Beside `epsilon`, its delta; beside the others, what `Calibration.epsilon` is told for.
        rho: Reach zero-concentrated differential privacy.
        mu: Reach Gaussian differential privacy.
        noise_multiplier: Tell what this one gives.
        client: Where it is computed; in this process unless given.
    """
    targets = {"epsilon": epsilon, "rho": rho, "mu": mu, "noise_multiplier": noise_multiplier}
    given = [(name, real(name, value)) for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise InvalidArgumentError(
            field="target", rule="must be one of epsilon, rho, mu and noise_multiplier"
        )
    of = sensitivity.value if isinstance(sensitivity, Sensitivity) else real("sensitivity", sensitivity)
    return Calibration(**_noised.calibrate(_place(client), of, *given[0], maybe_real("delta", delta)))


def _row(found: Design) -> dict[str, Any]:
    """What a table tells of a design."""
    return {
        "strategy": found.name or _said(found.strategy._spec),
        **({} if found.planes is None else {"planes": found.planes}),
        "loss": found.loss,
        "mean": found.mean,
        "max": found.max,
        "sensitivity": found.sensitivity.value,
        "exact": "yes" if found.sensitivity.exact else "an upper bound",
    }


def noising_matrix_of(given: StreamingMatrix | Design | None) -> StreamingMatrix:
    """The noising matrix that an adapter was given, itself or in a design.

    Raises:
        InvalidArgumentError: It is neither; the message says what gives one.
    """
    if isinstance(given, Design):
        return given.noising_matrix
    hint = ""
    if isinstance(given, Recommendation):
        hint = ": .best is a design, which has one"
    elif hasattr(given, "inverse_as_streaming_matrix"):
        hint = ": .inverse_as_streaming_matrix() makes one"
    if not isinstance(given, StreamingMatrix):
        raise InvalidArgumentError(
            field="noising_matrix",
            rule=f"must be a StreamingMatrix or a Design, found {type(given).__name__}{hint}",
        )
    return given
