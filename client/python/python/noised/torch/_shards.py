"""Noise for ranks of which each holds a part of the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import distributed

from noised._check import is_a, whole
from noised._options import SessionOptions
from noised.design import Design
from noised.errors import InvalidArgumentError
from noised.sources import Cut, Shard, checked_shard
from noised.streaming_matrix import StreamingMatrix
from noised.torch._noise import Noise, Place, Plan, shape_of
from noised.torch._parameters import Parameters, Trainable, check_gradient

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: The leaf that fills the tree up, so that all ranks hold as much.
_PADDING = "noised.padding"
#: More than any memory holds, and still a size that PyTorch can count in bytes.
_MAX_LANES = 1 << 48


def shard(group: distributed.ProcessGroup | None = None, *, cut: Cut = "lanes") -> Shard:
    """This rank's part: shard `rank` of `world_size`.

    Args:
        group: The ranks that share the gradient; all of them unless given.
        cut: As of `noised.Shard`.

    Raises:
        InvalidArgumentError: `torch.distributed` is not initialised, or this rank is not of the group.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise InvalidArgumentError(
            field="group", rule="is none: torch.distributed.init_process_group() comes first"
        )
    if group is not None:
        is_a("group", group, distributed.ProcessGroup, "a group of torch.distributed")
    rank = distributed.get_rank(group)
    if rank < 0:
        raise InvalidArgumentError(field="group", rule="must have this rank in it")
    return Shard(rank, distributed.get_world_size(group), cut)


_of_this_rank = shard


class ShardPrivatizer(Noise):
    """Adds each step's correlated noise to a rank's part of the flat gradient, in place. Each rank fetches its part alone.

    The flat gradient is that of all parameters, one after the other, in the order given, with zeros at its end that make
    its length a multiple of the number of ranks. Rank `r` of `k` holds the `r`-th of `k` equal parts: what
    `reduce_scatter_tensor` leaves there, and FSDP with flat parameters.

    With a `noise_id` and servers of the same master key, or with a `noise_key`, the parts are one noise: bit for bit that
    of a session for the whole. Otherwise each rank's noise has a key of its own, which is as good.
    """

    def __init__(
        self,
        parameters: Parameters,
        noising_matrix: StreamingMatrix | Design,
        stddev: float,
        *,
        client: Place = None,
        source: Literal["gaussian", "privatize"] = "gaussian",
        noise_id: str | None = None,
        noise_key: bytes | None = None,
        shard: Shard | None = None,
        dtype: torch.dtype | None = None,
        pad_to: int | None = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        """Makes no session yet: the first step does, or `load_state_dict` takes one up.

        Args:
            parameters: As of `Privatizer`: on every rank the whole model's, of which only shapes are looked at. What
                is frozen is no part of the flat gradient.
            noising_matrix: As of `Privatizer`.
            stddev: As of `Privatizer`, in the units of what the ranks' gradients were reduced to.
            client: Where this rank's session is held.
            source: As of `Privatizer`.
            noise_id: As of `noised.Gaussian`. The number that the length is padded to is part of what it is bound to.
            noise_key: As of `noised.Gaussian`.
            shard: Which part; that of `noised.torch.shard()` unless given.
            dtype: The format of the flat gradient; that of the parameters unless given.
            pad_to: Make the length a multiple of this, a multiple of the number of ranks; the number of ranks unless given.
            options: As of `Client.create_session`.

        Raises:
            InvalidArgumentError: Names the argument.
        """
        shard = _of_this_rank() if shard is None else checked_shard(shard)
        pad_to = shard.count if pad_to is None else whole("pad_to", pad_to)
        if shard.cut != "lanes":
            raise InvalidArgumentError(field="shard.cut", rule="must be lanes: ranks hold equal parts")
        if pad_to < 1 or pad_to % shard.count:
            raise InvalidArgumentError(
                field="pad_to",
                rule=f"must be a multiple of the number of ranks {shard.count}, found {pad_to}",
            )
        found = Trainable(parameters)
        self._dtype = (
            _one_dtype(found.parameters)
            if dtype is None
            else is_a("dtype", dtype, torch.dtype, "a format of torch")
        )
        leaves = {
            name: shape_of(parameter, self._dtype)
            for name, parameter in zip(found.names, found.parameters, strict=True)
        }
        total = sum(leaf.numel() for leaf in leaves.values())
        #: Zeros at the end of the flat gradient.
        self.padding = -total % pad_to
        if total + self.padding > _MAX_LANES:
            raise InvalidArgumentError(
                field="pad_to", rule=f"must leave at most 2^48 elements, found {total + self.padding}"
            )
        if self.padding:
            leaves[_PADDING] = torch.empty(self.padding, dtype=self._dtype, device="meta")
        size = (total + self.padding) // shard.count
        self._lanes = range(shard.index * size, (shard.index + 1) * size)
        plan = Plan.of(noising_matrix, stddev, source, noise_id, noise_key, shard=shard, **options)
        super().__init__(leaves, plan, client)

    @property
    def lanes(self) -> range:
        """The elements of the flat gradient that this rank holds."""
        return self._lanes

    def add_noise(self, gradient: torch.Tensor) -> None:
        """Adds the noise of the next step to this rank's part of the flat gradient, in place.

        A call that fails has changed nothing and used no noise: call again. So has one that a Ctrl-C ends, unless `step` is
        the next one already. While it works, it holds a copy of the gradient.

        Args:
            gradient: A tensor with one axis, as long as `lanes`.

        Raises:
            InvalidArgumentError: It is another.
            PastHorizonError, DivergedError: The step is refused.
            UnavailableError, ConnectionBrokenError: The server was away for too long. Call again.
        """
        is_a("gradient", gradient, torch.Tensor, "a tensor")
        if tuple(gradient.shape) != (len(self._lanes),):
            raise InvalidArgumentError(
                field="gradient",
                rule=f"must have the shape ({len(self._lanes)},), found {tuple(gradient.shape)}",
            )
        check_gradient("gradient", gradient, self._dtype)
        with self._writing() as writes:
            self._take(writes, lambda: gradient, lambda answer: writes.change(gradient, self._writer(answer)))


def _one_dtype(parameters: list[torch.Tensor]) -> torch.dtype:
    formats = {parameter.dtype for parameter in parameters}
    if len(formats) > 1:
        raise InvalidArgumentError(
            field="dtype",
            rule=f"must be given where parameters have several formats: {sorted(map(str, formats))}",
        )
    return formats.pop()
