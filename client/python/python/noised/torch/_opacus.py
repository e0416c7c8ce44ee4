"""Noise for the optimizer of Opacus."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from noised.errors import InvalidArgumentError
from noised.session import Session
from noised.streaming_matrix import StreamingMatrix
from noised.torch._noise import Noise, Place, Plan, SessionOptions, shape_of
from noised.torch._parameters import Trainable

if TYPE_CHECKING:
    from typing_extensions import Unpack


def replace_opacus_noise(
    optimizer: Any,
    noising_matrix: StreamingMatrix | None = None,
    *,
    client: Place = None,
    source: Literal["gaussian", "privatize"] = "gaussian",
    noise_id: str | None = None,
    noise_key: bytes | None = None,
    session: Session | None = None,
    **options: Unpack[SessionOptions],
) -> OpacusNoise:
    """Has a `DPOptimizer` add correlated noise in place of its own. Nothing else about it changes.

    The noise before it is correlated has the standard deviation `noise_multiplier * max_grad_norm`, both as the optimizer
    has them: the sensitivity of the strategy must be in `noise_multiplier`. That is the `stddev` that
    `noised.calibrate(noised.sensitivity(strategy, n, participation), epsilon=..., delta=...)` gives, not its
    `noise_multiplier`.

    One step's noise is added to each sum of clipped gradients that the optimizer would have noised: physical batches
    whose step is skipped (`BatchMemoryManager`, `signal_skip_step`) take none. The optimizer's `generator` and
    `secure_mode` have no effect. Where its noise is added on rank 0 alone (`DistributedDPOptimizer`), so is this, and other
    ranks make no session.

    The accountants of Opacus know nothing of correlated noise: what `PrivacyEngine.get_epsilon` says then is wrong. The
    privacy is that of the calibration. It is for data that comes by a participation pattern, not by Poisson sampling
    (`poisson_sampling=False`).

    Args:
        optimizer: A `DPOptimizer` of flat, per-layer or ghost clipping. Those whose noise changes from step to step, or is
            added elsewhere, are refused: adaptive clipping, FSDP, per-layer hooks.
        noising_matrix: `C^-1` of a strategy `C`.
        client: As of `Privatizer`.
        source: As of `Privatizer`.
        noise_id: As of `noised.Gaussian`.
        noise_key: As of `noised.Gaussian`.
        session: As of `Privatizer`; its `stddev` is then the caller's to get right.
        options: As of `Client.create_session`.

    Returns:
        What holds the session, with `state_dict` and `load_state_dict` for checkpoints.

    Raises:
        InvalidArgumentError: Names the argument.
        ImportError: Opacus is not installed.
    """
    return OpacusNoise(
        optimizer,
        noising_matrix,
        client=client,
        source=source,
        noise_id=noise_id,
        noise_key=noise_key,
        session=session,
        **options,
    )


class OpacusNoise(Noise):
    """The noise of a `DPOptimizer`: `replace_opacus_noise` makes one."""

    def __init__(
        self,
        optimizer: Any,
        noising_matrix: StreamingMatrix | None,
        *,
        client: Place,
        source: Literal["gaussian", "privatize"],
        noise_id: str | None,
        noise_key: bytes | None,
        session: Session | None,
        **options: Unpack[SessionOptions],
    ) -> None:
        """As of `replace_opacus_noise`."""
        is_ghost = _check_optimizer(optimizer)
        self._optimizer = optimizer
        self._trainable = Trainable(optimizer)
        pairs = zip(self._trainable.names, self._trainable.parameters, strict=True)
        leaves = {name: shape_of(parameter) for name, parameter in pairs}
        if session is None:
            plan = Plan.of(noising_matrix, _stddev(optimizer), source, noise_id, noise_key, **options)
            super().__init__(leaves, plan, client)
        else:
            if noising_matrix is not None:
                raise InvalidArgumentError(field="session", rule="has its matrix: give the one or the other")
            super().__init__(leaves, session, client or session.client)
        #: The sums that a failed step still owes noise to, each with the gradient that it came from.
        self._owed: list[tuple[Any, Any, int]] | None = None
        self._is_silent = getattr(optimizer, "rank", 0) != 0
        if self._is_silent:
            return
        self._accumulate = optimizer.accumulate if is_ghost else optimizer.clip_and_accumulate
        setattr(optimizer, "accumulate" if is_ghost else "clip_and_accumulate", self._accumulate_once)
        optimizer.add_noise = self._add_noise

    def state_dict(self) -> dict[str, Any]:
        """As of `Privatizer`. On a rank that adds no noise there is nothing to save: an empty one."""
        return {} if self._is_silent else super().state_dict()

    def load_state_dict(self, state_dict: Any, **options: Any) -> None:
        """As of `Privatizer`. A rank that adds no noise takes nothing up."""
        if not self._is_silent:
            super().load_state_dict(state_dict, **options)

    def _accumulate_once(self) -> None:
        """Clips and sums a batch; not a second time, where a step that failed for want of noise is made again."""
        if self._owed is not None and self._is_owed_still(self._owed):
            # That step was not to be skipped, and the signal that said so is used up.
            self._optimizer._step_skip_queue.insert(0, False)
            return
        self._owed = None
        self._accumulate()

    def _is_owed_still(self, owed: list[tuple[Any, Any, int]]) -> bool:
        params = self._optimizer.params
        return len(params) == len(owed) and all(
            getattr(p, "summed_grad", None) is summed and _batch(p) == (batch, version)
            for p, (summed, batch, version) in zip(params, owed, strict=True)
        )

    def _add_noise(self) -> None:
        """What the optimizer calls in place of its own."""
        params = self._optimizer.params
        self._check_params(params)
        if self._plan is not None and self._plan.stddev != _stddev(self._optimizer):
            raise InvalidArgumentError(
                field="optimizer",
                rule=f"must keep noise_multiplier * max_grad_norm at {self._plan.stddev}, found "
                f"{_stddev(self._optimizer)}: the steps of correlated noise have one standard deviation",
            )
        # What is noised is a copy: where this fails, no gradient without noise lies in p.grad.
        noisy = {id(p): p.summed_grad.clone() for p in params}
        self._owed = [(p.summed_grad, *_batch(p)) for p in params]
        # Where this fails, zero_grad() must drop the sum: Opacus takes the batch for one whose rest is still to come, as it was
        # when its last part was skipped.
        self._optimizer._is_last_step_skipped = False
        self._add([noisy.get(id(p)) for p in self._trainable.parameters])
        self._owed = None
        for p in params:
            p.grad = noisy[id(p)].view_as(p)
            # As Opacus marks a sum that is used up, so that it can find out that zero_grad() was forgotten.
            p.summed_grad._processed = True

    def _check_params(self, params: list[Any]) -> None:
        known = {id(p) for p in self._trainable.parameters}
        for i, p in enumerate(params):
            if id(p) not in known:
                raise InvalidArgumentError(
                    field=f"optimizer.params[{i}]",
                    rule="would get no noise: it was frozen, or not there, when the noise was replaced",
                )
            if hasattr(p.summed_grad, "_processed"):
                raise InvalidArgumentError(
                    field=f"optimizer.params[{i}]",
                    rule="has a gradient that was used before: optimizer.zero_grad() comes after every step",
                )


def _batch(parameter: Any) -> tuple[int, int]:
    """What tells one batch's gradients from another's: the tensors, and whether they were written to."""
    samples = getattr(parameter, "grad_sample", None)
    found = samples if isinstance(samples, list) else [parameter.grad if samples is None else samples]
    tensors = [tensor for tensor in found if isinstance(tensor, torch.Tensor)]
    return hash(tuple(map(id, tensors))), sum(tensor._version for tensor in tensors)


def _stddev(optimizer: Any) -> float:
    stddev = float(optimizer.noise_multiplier) * float(optimizer.max_grad_norm)
    if not (math.isfinite(stddev) and stddev >= 0):
        raise InvalidArgumentError(
            field="optimizer",
            rule=f"must have a noise_multiplier * max_grad_norm that is finite and not negative, found {stddev}",
        )
    return stddev


def _check_optimizer(optimizer: Any) -> bool:
    """Whether the optimizer is one of ghost clipping; it must be one whose noise is known."""
    from opacus.optimizers import (  # noqa: PLC0415  For those who use it.
        DistributedDPOptimizer,
        DistributedDPOptimizerFastGradientClipping,
        DPOptimizer,
        DPOptimizerFastGradientClipping,
    )

    known = (
        DPOptimizer,
        DistributedDPOptimizer,
        DPOptimizerFastGradientClipping,
        DistributedDPOptimizerFastGradientClipping,
    )
    if not isinstance(optimizer, DPOptimizer):
        raise InvalidArgumentError(
            field="optimizer", rule=f"must be a DPOptimizer of Opacus, found {type(optimizer).__name__}"
        )
    if type(optimizer).add_noise not in [kind.add_noise for kind in known] or hasattr(
        optimizer, "_adjusted_noise_multiplier"
    ):
        raise InvalidArgumentError(
            field="optimizer",
            rule=f"is a {type(optimizer).__name__}, which has a noise of its own kind that cannot be replaced",
        )
    if "add_noise" in vars(optimizer):
        raise InvalidArgumentError(field="optimizer", rule="has its noise replaced already")
    return isinstance(optimizer, DPOptimizerFastGradientClipping)
