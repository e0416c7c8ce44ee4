"""Noise for a training loop of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from noised._check import flag
from noised._options import SessionOptions
from noised.design import Design
from noised.errors import InvalidArgumentError
from noised.session import Session
from noised.streaming_matrix import StreamingMatrix
from noised.torch._noise import Noise, Place, Plan, shape_of
from noised.torch._parameters import Parameters, Trainable, gradient_dtype

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Privatizer(Noise):
    """Adds each step's correlated noise to the gradients of a model, in place.

    What it finds in `p.grad` must be the sum of the examples' clipped gradients, or that divided by a constant which
    `stddev` is divided by as well. It clips nothing and accounts for nothing.

    - Parameters that are frozen when it is made are left out. One that is frozen later keeps its noise, which is dropped;
      one that is thawed later, or added to the model, is refused as soon as it has a gradient, since it would get no noise.
    - Tied parameters are one tensor with one gradient, and get noise once.
    - A parameter without gradient (`p.grad is None`) is an error, unless `missing_as_zero`.
    - Noise for float16 and bfloat16 is drawn and added in float32, and the sum is rounded once. Gradients may lie on any
      device, and need not be contiguous; sparse ones are refused.
    """

    def __init__(
        self,
        parameters: Parameters,
        noising_matrix: StreamingMatrix | Design | None = None,
        stddev: float | None = None,
        *,
        client: Place = None,
        source: Literal["gaussian", "privatize"] = "gaussian",
        noise_id: str | None = None,
        noise_key: bytes | None = None,
        session: Session | None = None,
        missing_as_zero: bool = False,
        only_rank: bool = False,
        **options: Unpack[SessionOptions],
    ) -> None:
        """Makes no session yet: the first step does, or `load_state_dict` takes one up.

        Args:
            parameters: A model, an optimizer, or pairs as `model.named_parameters()` gives. Their names and order are part of
                what the session is bound to.
            noising_matrix: `C^-1` of a strategy `C`, or a `Design`, which has it.
            stddev: The standard deviation of the noise before it is correlated: noise multiplier times clipping norm times the
                sensitivity of the strategy, in the units of `p.grad`.
            client: Where the session is held: a client, or what `noised.connect` takes. Unless given, `local:`, or what the
                checkpoint names.
            source: `gaussian` to fetch the noise, the next step's in the background; `privatize` to send the gradients and
                get them back with noise, which leaves the server under a gradient alone.
            noise_id: As of `noised.Gaussian`.
            noise_key: As of `noised.Gaussian`.
            session: One that is there already, in place of a matrix, `stddev` and the rest: for arrays with the parameters'
                names, such as `OrderedDict(model.named_parameters())`.
            missing_as_zero: A parameter without gradient gets one of zeros, and noise: for batches that may be empty.
            only_rank: Under torch.distributed: this rank alone adds noise, and the others get what comes of it. Each rank's own
                noise would be another, and so would its parameters be.
            options: As of `Client.create_session`.

        Raises:
            InvalidArgumentError: Names the argument.
        """
        if not flag("only_rank", only_rank) and _ranks() > 1:
            raise InvalidArgumentError(
                field="only_rank",
                rule=f"must be set where one of {_ranks()} ranks adds the noise of all; for ranks with a part each there is "
                "ShardPrivatizer",
            )
        self._trainable = Trainable(parameters)
        self._missing_as_zero = flag("missing_as_zero", missing_as_zero)
        pairs = zip(self._trainable.names, self._trainable.parameters, strict=True)
        leaves = {name: shape_of(parameter, gradient_dtype(parameter)) for name, parameter in pairs}
        if session is None:
            plan = Plan.of(noising_matrix, stddev, source, noise_id, noise_key, **options)
            super().__init__(leaves, plan, client)
        else:
            if noising_matrix is not None or stddev is not None:
                raise InvalidArgumentError(
                    field="session", rule="has its matrix and stddev: give the one or the other"
                )
            super().__init__(leaves, session, client)

    def add_noise(self) -> None:
        """Adds the noise of the next step to every `p.grad`, in place: once a step, before `optimizer.step()`.

        A call that fails has changed no gradient and used no noise: call again. So has one that a Ctrl-C ends, unless `step`
        is the next one already. While it works, it holds a copy of the gradients.

        Raises:
            InvalidArgumentError: A gradient is missing, or cannot take noise; the message names it.
            PastHorizonError, DivergedError: The step is refused.
            UnavailableError, ConnectionBrokenError: The server was away for too long. Call again.
        """
        with self._writing() as writes:
            self._add(self._trainable.gradients(self._missing_as_zero, writes), writes)


def _ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
