"""A model's parameters, and their gradients as they must be to get noise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch.nn.parameter import is_lazy

from noised._check import several
from noised.errors import InvalidArgumentError
from noised.torch._writes import Writes

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
            if is_lazy(parameter):
                raise InvalidArgumentError(
                    field=f"parameters.{name}",
                    rule="is of a lazy module, which has no shape yet: send a batch through the model first",
                )
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

    def gradients(self, missing_as_zero: bool, writes: Writes) -> list[torch.Tensor | None]:
        """The gradient of each, to be written to; `None` for a parameter that was frozen since, whatever it has in `grad`.

        Args:
            missing_as_zero: Give a parameter without gradient one of zeros.
            writes: Gets the gradients of zeros.

        Raises:
            InvalidArgumentError: One is missing, or cannot take noise.
        """
        self._check_others()
        trained = {
            name: parameter
            for name, parameter in zip(self.names, self.parameters, strict=True)
            if parameter.requires_grad
        }
        found = {name: gradient_of(name, parameter) for name, parameter in trained.items()}
        missing = [name for name, gradient in found.items() if gradient is None]
        if missing and not missing_as_zero:
            raise InvalidArgumentError(field="gradients", rule=self._say_missing(missing))
        there = {name: gradient for name, gradient in found.items() if gradient is not None}
        for name, gradient in there.items():
            check_gradient(f"gradients.{name}", gradient, gradient_dtype(trained[name]))
        check_apart(there)
        for name in missing:
            found[name] = zeros = torch.zeros_like(trained[name])
            writes.assign(trained[name], "grad", zeros)
        return [found.get(name) for name in self.names]

    def _check_others(self) -> None:
        for name, parameter in self._everything():
            if id(parameter) not in self._known and gradient_of(name, parameter) is not None:
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


def gradient_of(name: str, parameter: torch.Tensor) -> torch.Tensor | None:
    """The gradient that the optimizer takes: `grad`, or `main_grad`, into which Megatron sums the gradients of a parameter.

    Raises:
        InvalidArgumentError: There are both.
    """
    main: torch.Tensor | None = getattr(parameter, "main_grad", None)
    if main is None:
        return parameter.grad
    if parameter.grad is not None:
        raise InvalidArgumentError(
            field=f"gradients.{name}",
            rule="is in p.grad and in p.main_grad, and the noise goes to one of them: add p.grad to p.main_grad, and set "
            "p.grad = None",
        )
    return main


def gradient_dtype(parameter: torch.Tensor) -> torch.dtype:
    """The format that the parameter's gradient has."""
    main: torch.Tensor | None = getattr(parameter, "main_grad", None)
    return parameter.dtype if main is None else main.dtype


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
    if gradient.is_inference() and not torch.is_inference_mode_enabled():
        raise InvalidArgumentError(
            field=field,
            rule="is a tensor of torch.inference_mode, which nothing can be added to: p.grad = p.grad.clone()",
        )
    if _overlaps_itself(gradient):
        raise InvalidArgumentError(
            field=field, rule="is expanded, with elements that share memory: p.grad = p.grad.clone()"
        )


def check_apart(gradients: Mapping[str, torch.Tensor]) -> None:
    """Sees that no two gradients share memory: each would get the noise of both, or one noise would overwrite the other."""
    places = sorted(
        (*_memory(gradient), *_extent(gradient), name)
        for name, gradient in gradients.items()
        if gradient.numel()
    )
    # Those that begin before the ones seen so far have ended.
    reaching: list[tuple[str, int, int, int, str]] = []
    for place in places:
        *memory, start, _, name = place
        reaching = [other for other in reaching if [*other[:2]] == memory and other[3] > start]
        for *_, other in reaching:
            if _share(gradients[other], gradients[name]):
                raise InvalidArgumentError(
                    field=f"gradients.{name}",
                    rule=f"shares memory with gradients.{other}, so that noise would be added twice or overwritten: "
                    "p.grad = p.grad.clone() for one of the two, or tie the parameters themselves",
                )
        reaching.append(place)


#: Kinds of devices on which a pointer is an address. On Apple's GPUs, for one, it is that of an object that stands for memory.
_ADDRESSED = ("cpu", "cuda", "xpu")


def _memory(tensor: torch.Tensor) -> tuple[str, int]:
    """In what a tensor's bytes are counted: the memory of its device, or where that has no addresses, its storage."""
    is_addressed = tensor.device.type in _ADDRESSED
    return str(tensor.device), 0 if is_addressed else tensor.untyped_storage()._cdata


def _start(tensor: torch.Tensor) -> int:
    """Where the bytes of its elements begin."""
    is_addressed = tensor.device.type in _ADDRESSED
    return tensor.data_ptr() if is_addressed else int(tensor.storage_offset()) * tensor.element_size()


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Where the bytes of its elements begin and end."""
    start = _start(tensor)
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (reach + 1) * tensor.element_size()


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two elements of a tensor are one place in memory."""
    axes = sorted(
        (stride, length) for length, stride in zip(tensor.shape, tensor.stride(), strict=True) if length > 1
    )
    reach = 0
    for stride, length in axes:
        if stride <= reach:
            # Each axis does not step over those within; so few tensors lie like this that all elements may be looked at.
            return len(set(_places(tensor).tolist())) < tensor.numel()
        reach += (length - 1) * stride
    return False


def _share(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors, whose extents overlap, have an element in common: columns of one matrix have none."""
    size = left.element_size()
    apart = _start(right) - _start(left)
    if right.element_size() != size or apart % size:
        return True
    return bool(torch.isin(_places(left), _places(right) + apart // size).any())


def _places(tensor: torch.Tensor) -> torch.Tensor:
    """Where each element is, counted in elements from the first."""
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.arange(reach + 1).as_strided(tensor.shape, tensor.stride()).flatten()


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
    given = several("parameters", parameters, "a module, an optimizer, or pairs of name and parameter")
    for item in given:
        is_pair = isinstance(item, (tuple, list)) and len(item) == 2
        if not (is_pair and isinstance(item[0], str) and isinstance(item[1], torch.Tensor)):
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
