"""Where a session's input comes from, and which part of the tree it holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from noised._check import MAX_U32, is_a, maybe_text, one_of, real, secret, whole

#: How a tree is cut into shards.
Cut = Literal["lanes", "leaves"]


@dataclass(frozen=True)
class Input:
    """The client sends `x_t` and gets `(A x)_t`."""


@dataclass(frozen=True)
class Gaussian:
    """The server draws `z_t`, and the client fetches `(A z)_t`. It sees the noise.

    Attributes:
        stddev: The standard deviation of each `z_t[lane]`: noise multiplier times clipping norm times the sensitivity of the
            strategy.
        noise_id: A public name from which, with the server's master key, the key of the noise is derived, so that several
            servers draw the same noise.
        noise_key: The key itself, 32 bytes, for research that has to be repeatable. Whoever knows it knows the noise.

        answer_dtype: The format of every leaf of the noise. Unless set, it is that of the tree's leaf, and float32 for leaves
            of 16 bits: noise that is rounded to 16 bits and then added to gradients of more digits does not cover those digits,
            and gives small gradients away. Who sets `bfloat16` or `float16` adds it to nothing that has more.

    Without `noise_id` and `noise_key` the key is a fresh one of the operating system, which nobody can draw again.
    """

    stddev: float
    noise_id: str | None = None
    noise_key: bytes | None = field(default=None, repr=False)
    answer_dtype: Any = None


@dataclass(frozen=True)
class Privatize:
    """The client sends its clipped gradient `g_t` and gets `g_t + (A z)_t`. Noise leaves the server under a gradient alone,
    and the server refuses a second gradient under a step.

    Attributes:
        stddev: As of `Gaussian`.
        noise_id: As of `Gaussian`.
        noise_key: As of `Gaussian`.
        answer_dtype: The format of every leaf of an answer, such as `float32` for gradients in bfloat16; that of the
            gradient's leaf unless set.
    """

    stddev: float
    noise_id: str | None = None
    noise_key: bytes | None = field(default=None, repr=False)
    answer_dtype: Any = None


Source = Input | Gaussian | Privatize


@dataclass(frozen=True)
class Shard:
    """A part of a tree's lanes, of which every worker holds one.

    The steps of a session that holds a shard are arrays with one axis: its lanes, in tree order.

    Attributes:
        index: Which one, from 0.
        count: How many there are.
        cut: `lanes` for parts of the same size, whatever leaf they are in; `leaves` for whole leaves.
    """

    index: int
    count: int
    cut: Cut = "lanes"


def checked_source(source: Any) -> Source:
    """A source whose attributes are as the native module takes them.

    Raises:
        InvalidArgumentError: One is not.
    """
    kinds: tuple[type[Source], ...] = (Input, Gaussian, Privatize)
    found: Source = is_a("source", source, kinds, "a source of noised.sources")
    if isinstance(found, Input):
        return found
    return replace(
        found,
        stddev=real("source.stddev", found.stddev),
        noise_id=maybe_text("source.noise_id", found.noise_id),
        noise_key=secret("source.noise_key", found.noise_key),
    )


def checked_shard(shard: Any) -> Shard:
    """The same of a shard."""
    found = is_a("shard", shard, Shard, "a noised.Shard")
    return Shard(
        whole("shard.index", found.index, MAX_U32),
        whole("shard.count", found.count, MAX_U32),
        cast(Cut, one_of("shard.cut", found.cut, get_args(Cut))),
    )
