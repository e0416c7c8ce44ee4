"""What a step writes, so that it can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_MISSING = object()


class Writes:
    """The changes that one step makes: to tensors in place, and to attributes. All of them stay, or none does.

    A step fails halfway for many reasons: no memory for the next tensor, a tensor that refuses to be written to, a Ctrl-C.
    Noise cannot be subtracted exactly, so what a tensor held is kept until the step is whole.

    Attributes:
        step: The step whose noise is written, once that is known.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self._undo: list[Callable[[], object]] = []

    def change(self, tensor: torch.Tensor, by: Callable[[torch.Tensor], object]) -> None:
        """Has `by` write to a tensor in place."""
        # The same memory, of which no gradient is asked. `torch.no_grad` would stay on where a Ctrl-C comes as it is entered.
        plain = tensor.detach()
        before = plain.clone()
        self._undo.append(lambda: plain.copy_(before))
        by(plain)

    def assign(self, target: Any, name: str, value: Any) -> None:
        """Sets an attribute."""
        before = getattr(target, name, _MISSING)
        self._undo.append(lambda: _assign(target, name, before))
        setattr(target, name, value)

    def take_back(self) -> None:
        """Has everything as it was. A second Ctrl-C is raised once it is."""
        try:
            while self._undo:
                # What was put back twice is as it was all the same.
                self._undo[-1]()
                self._undo.pop()
        except KeyboardInterrupt:
            self.take_back()
            raise


def _assign(target: Any, name: str, value: Any) -> None:
    if value is not _MISSING:
        setattr(target, name, value)
    elif hasattr(target, name):
        delattr(target, name)
