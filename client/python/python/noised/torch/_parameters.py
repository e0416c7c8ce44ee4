"""A model's parameters, and their gradients as they must be to get noise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

import torch

from noised.errors import InvalidArgumentError

#: What has parameters with names.
Parameters = torch.nn.Module | torch.optim.Optimizer | Iterable[tuple[str, torch.Tensor]]


class Trainable:
    """The parameters that get noise: those that were not frozen when this was made, each once.

    Attributes:
        names: As the model or the optimizer has them; of tied parameters, the first.
        parameters: One a name.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._everything = _lister(parameters)
        found: dict[int, tuple[str, torch.Tensor]] = {}
        for name, parameter in self._everything():
            if parameter.requires_grad:
                # Tied parameters are one tensor with one gradient, which gets noise once.
                found.setdefault(id(parameter), (name, parameter))
        self.names = [name for name, _ in found.values()]
        self.parameters = [parameter for _, parameter in found.values()]
        self._known = found.keys()
        if not found:
            raise InvalidArgumentError(field="parameters", rule="must have one that requires a gradient")
        if len(set(self.names)) < len(self.names):
            raise InvalidArgumentError(field="parameters", rule="must have names of their own")

    def gradients(self, missing_as_zero: bool) -> list[torch.Tensor | None]:
        """The gradient of each, to be written to; `None` for a parameter that was frozen since.

        Args:
            missing_as_zero: Give a parameter without gradient one of zeros.

        Raises:
            InvalidArgumentError: One is missing, or cannot take noise; nothing was changed then.
        """
        self._check_others()
        missing = [
            name
            for name, parameter in zip(self.names, self.parameters, strict=True)
            if parameter.grad is None and parameter.requires_grad
        ]
        if missing and not missing_as_zero:
            raise InvalidArgumentError(field="gradients", rule=self._say_missing(missing))
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if parameter.grad is not None:
                check_gradient(f"gradients.{name}", parameter.grad, parameter.dtype)
        for parameter in self.parameters:
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters]

    def _check_others(self) -> None:
        for name, parameter in self._everything():
            if id(parameter) not in self._known and parameter.grad is not None:
                raise InvalidArgumentError(
                    field=f"gradients.{name}",
                    rule="would get no noise: the parameter was frozen, or not there, when the session's tree was made. "
                    "Clear its gradient, or make a new privatizer, which is a new session",
                )

    def _say_missing(self, missing: list[str]) -> str:
        if len(missing) == len(self.names):
            return "are missing: call backward() first; missing_as_zero=True is for batches that may be empty"
        return (
            f"must be there for every parameter, and {', '.join(missing[:3])}{' ...' if missing[3:] else ''} "
            f"{'has' if len(missing) == 1 else 'have'} none: freeze what is not trained before the privatizer is made, "
            "or say missing_as_zero=True"
        )


def check_gradient(field: str, gradient: torch.Tensor, dtype: torch.dtype) -> None:
    """Sees that noise of every lane can be written to a gradient in place."""
    if _is_dtensor(gradient):
        raise InvalidArgumentError(
            field=field,
            rule="is a DTensor: give ShardPrivatizer each rank's part of the flat gradient",
        )
    if gradient.layout != torch.strided:
        raise InvalidArgumentError(
            field=field,
            rule=f"must be dense, found {gradient.layout}: noise is; embeddings take sparse=False",
        )
    if gradient.dtype != dtype:
        raise InvalidArgumentError(
            field=field, rule=f"must have the format {dtype} of its parameter, found {gradient.dtype}"
        )
    strides = zip(gradient.shape, gradient.stride(), strict=True)
    if any(length > 1 and stride == 0 for length, stride in strides):
        raise InvalidArgumentError(
            field=field, rule="is expanded, with elements that share memory: p.grad = p.grad.clone()"
        )


def _is_dtensor(tensor: torch.Tensor) -> bool:
    # There is none before somebody has imported it, and importing it takes its time.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _lister(parameters: Parameters) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """What lists all the parameters that there are at the time, frozen ones as well."""
    if isinstance(parameters, torch.nn.Module):
        return parameters.named_parameters
    if isinstance(parameters, torch.optim.Optimizer):
        optimizer = parameters
        return lambda: _of_optimizer(optimizer)
    given = list(parameters)
    for item in given:
        if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], torch.Tensor)):
            raise InvalidArgumentError(
                field="parameters",
                rule=f"must be a module, an optimizer, or pairs of name and parameter, found {type(item).__name__}: "
                "did you mean model.named_parameters()?",
            )
    return lambda: iter(given)


def _of_optimizer(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    for i, group in enumerate(optimizer.param_groups):
        # An optimizer that was made of named parameters knows their names; others are told apart by their place.
        names = group.get("param_names") or [f"{i}/{j}" for j in range(len(group["params"]))]
        yield from zip(names, group["params"], strict=True)
