"""Noise for the optimizer of Opacus."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal

import torch

from noised._check import real
from noised._extras import missing
from noised._options import SessionOptions
from noised.design import Design
from noised.errors import InvalidArgumentError
from noised.session import Session
from noised.streaming_matrix import StreamingMatrix
from noised.torch._noise import Noise, Place, Plan, shape_of
from noised.torch._parameters import Trainable

if TYPE_CHECKING:
    from typing_extensions import Unpack


def replace_opacus_noise(
    optimizer: Any,
    noising_matrix: StreamingMatrix | Design | None = None,
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
        noising_matrix: `C^-1` of a strategy `C`, or a `Design`, which has it.
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
        MissingPackageError: Opacus is not installed.
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
        noising_matrix: StreamingMatrix | Design | None,
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
        leaves = {name: shape_of(parameter, parameter.dtype) for name, parameter in pairs}
        if session is None:
            plan = Plan.of(noising_matrix, _stddev(optimizer), source, noise_id, noise_key, **options)
            super().__init__(leaves, plan, client)
        else:
            if noising_matrix is not None:
                raise InvalidArgumentError(field="session", rule="has its matrix: give the one or the other")
            super().__init__(leaves, session, client)
        #: What examples are clipped to, and with the noise multiplier what noise is for.
        self._clipping = _clipping(optimizer)
        self._stddev = _stddev(optimizer)
        #: The sums that a failed step still owes noise to, each with the gradient that it came from.
        self._owed: list[tuple[Any, Any, int]] | None = None
        #: Whether the last step has failed, and neither was made again nor given up.
        self._has_failed = False
        #: Whether the failed step has left the signal that says if it is to be skipped.
        self._has_left_signal = False
        #: Whether the failed step has summed a part of its batch.
        self._is_summed_in_part = False
        self._is_ghost = is_ghost
        self._is_silent = getattr(optimizer, "rank", 0) != 0
        # What fails on one rank is given up on every other.
        self._step, self._zero_grad = optimizer.step, optimizer.zero_grad
        # Schedulers take the function of a method apart, so it must be one of the optimizer's.
        optimizer.step = MethodType(functools.wraps(self._step)(_function(self._step_of)), optimizer)
        optimizer.zero_grad = self._give_up
        name = "accumulate" if is_ghost else "clip_and_accumulate"
        self._accumulate = getattr(optimizer, name)
        setattr(optimizer, name, self._accumulate_once)
        if not self._is_silent:
            optimizer.add_noise = self._add_noise

    def state_dict(self) -> dict[str, Any]:
        """As of `Privatizer`. On a rank that adds no noise there is nothing to save: an empty one."""
        return {} if self._is_silent else super().state_dict()

    def load_state_dict(self, state_dict: Any, **options: Any) -> None:
        """As of `Privatizer`. A rank that adds no noise takes nothing up."""
        if not self._is_silent:
            super().load_state_dict(state_dict, **options)

    def _step_of(self, optimizer: Any, *args: Any, **options: Any) -> Any:
        """What is called in place of the optimizer's step: it takes note of a failure."""
        signals = len(optimizer._step_skip_queue)
        try:
            taken = self._step(*args, **options)
        except BaseException:
            if not self._has_failed or self._has_left_signal:
                self._has_left_signal = 0 < signals == len(optimizer._step_skip_queue)
            self._has_failed = True
            raise
        self._has_failed = False
        return taken

    def _give_up(self, *args: Any, **options: Any) -> None:
        """What is called in place of the optimizer's `zero_grad`.

        Opacus keeps the sum of a batch's parts there, where the last step was skipped for more of them to come. Where a part
        failed, nothing more comes: the next step would have the gradients of two batches under one noise.
        """
        optimizer = self._optimizer
        is_given_up = self._has_left_signal if self._has_failed else self._has_unused_samples()
        if self._has_failed or is_given_up:
            optimizer._is_last_step_skipped = False
        if is_given_up and optimizer._step_skip_queue:
            # It is of the part that is given up, and would be taken for the next one's.
            optimizer._step_skip_queue.pop(0)
        self._zero_grad(*args, **options)
        self._owed, self._has_failed, self._is_summed_in_part = None, False, False

    def _has_unused_samples(self) -> bool:
        """Whether there are gradients of examples that no step has summed: of a backward pass that failed, say.

        In ghost clipping there are none: the backward pass itself calls `zero_grad` halfway.
        """
        return not self._is_ghost and any(
            not hasattr(sample, "_processed") for p in self._optimizer.params for sample in _samples(p)
        )

    def _accumulate_once(self) -> None:
        """Clips and sums a batch; not a second time, where a step that failed for want of noise is made again."""
        if self._owed is not None and self._is_owed_still(self._owed):
            # That step was not to be skipped, and the signal that said so is used up.
            self._optimizer._step_skip_queue.insert(0, False)
            return
        if self._is_summed_in_part:
            raise InvalidArgumentError(
                field="optimizer",
                rule="has summed a part of this batch in a step that failed: optimizer.zero_grad() gives the batch up",
            )
        self._owed = None
        self._check_noise()
        before = self._sums()
        try:
            self._accumulate()
        except BaseException:
            self._is_summed_in_part = self._sums() != before
            raise

    def _sums(self) -> list[tuple[int, int]]:
        """What changes when a sum does."""
        sums = [getattr(p, "summed_grad", None) for p in self._optimizer.params]
        return [(id(tensor), 0 if tensor is None else tensor._version) for tensor in sums]

    def _is_owed_still(self, owed: list[tuple[Any, Any, int]]) -> bool:
        params = self._optimizer.params
        return len(params) == len(owed) and all(
            getattr(p, "summed_grad", None) is summed and _batch(p) == (batch, version)
            for p, (summed, batch, version) in zip(params, owed, strict=True)
        )

    def _add_noise(self) -> None:
        """What the optimizer calls in place of its own."""
        params = self._optimizer.params
        # Whatever fails from here on, the batch is summed.
        self._owed = [(p.summed_grad, *_batch(p)) for p in params]
        self._check_params(params)
        # What is noised is a copy: where this fails, no gradient without noise lies in p.grad.
        noisy = {id(p): p.summed_grad.clone() for p in params}
        with self._writing() as writes:

            def hand_out() -> None:
                for p in params:
                    writes.assign(p, "grad", noisy[id(p)].view_as(p))
                    # As Opacus marks a sum that is used up, so that it can find out that zero_grad() was forgotten.
                    writes.assign(p.summed_grad, "_processed", True)

            tensors = [noisy.get(id(p)) for p in self._trainable.parameters]
            self._add(tensors, writes, are_copies=True, then=hand_out)
        self._owed = None

    def _check_noise(self) -> None:
        """Sees that examples are clipped to what the noise is for: every part of a batch, before it is summed."""
        stddev, clipping = _stddev(self._optimizer), _clipping(self._optimizer)
        if self._plan is not None and stddev != self._stddev:
            raise InvalidArgumentError(
                field="optimizer",
                rule=f"must keep noise_multiplier * max_grad_norm at {self._stddev}, found {stddev}: the steps of correlated "
                "noise have one standard deviation",
            )
        if clipping != self._clipping:
            raise InvalidArgumentError(
                field="optimizer",
                rule=f"must keep max_grad_norm at {self._clipping[0]}, found {clipping[0]}: the noise is for gradients that "
                "are clipped to it",
            )

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


def _function(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method as a plain function, whose attributes may be set."""

    def call(*args: Any, **options: Any) -> Any:
        return method(*args, **options)

    return call


def _batch(parameter: Any) -> tuple[int, int]:
    """What tells one batch's gradients from another's: the tensors, and whether they were written to."""
    samples = getattr(parameter, "grad_sample", None)
    found = [parameter.grad] if samples is None else _samples(parameter)
    tensors = [tensor for tensor in found if isinstance(tensor, torch.Tensor)]
    return hash(tuple(map(id, tensors))), sum(tensor._version for tensor in tensors)


def _samples(parameter: Any) -> list[Any]:
    """The gradients of examples that a parameter has, one tensor a backward pass."""
    samples = getattr(parameter, "grad_sample", None)
    return samples if isinstance(samples, list) else [] if samples is None else [samples]


def _stddev(optimizer: Any) -> float:
    multiplier = real("optimizer.noise_multiplier", optimizer.noise_multiplier)
    stddev = multiplier * real("optimizer.max_grad_norm", optimizer.max_grad_norm)
    if not (math.isfinite(stddev) and stddev >= 0):
        raise InvalidArgumentError(
            field="optimizer",
            rule=f"must have a noise_multiplier * max_grad_norm that is finite and not negative, found {stddev}",
        )
    return stddev


def _clipping(optimizer: Any) -> tuple[float, ...]:
    """The norm that gradients are clipped to, and those of each layer, where these differ."""
    norm = real("optimizer.max_grad_norm", optimizer.max_grad_norm)
    return norm, *(
        real("optimizer.max_grad_norms", each) for each in getattr(optimizer, "max_grad_norms", ())
    )


def _check_optimizer(optimizer: Any) -> bool:
    """Whether the optimizer is one of ghost clipping; it must be one whose noise is known."""
    try:
        from opacus.optimizers import (  # noqa: PLC0415  For those who use it.
            DistributedDPOptimizer,
            DistributedDPOptimizerFastGradientClipping,
            DPOptimizer,
            DPOptimizerFastGradientClipping,
        )
    except ImportError as error:
        raise missing(error, "opacus") from error

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
