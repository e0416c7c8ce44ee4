"""The token by which a server knows a client, as it is given to `noised.connect`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from noised._check import flag, path, text
from noised.errors import CannotPickleError, InvalidArgumentError

#: How every token begins.
_PREFIX = "noised_"


@dataclass(frozen=True)
class Token:
    """What calls carry, and where it may go.

    Attributes:
        text: The token, where it was given as a string.
        file: The path of a file with the token, where it was given as an `os.PathLike`.
        insecure: Whether the token may cross a network without TLS.
    """

    text: str | None = field(default=None, repr=False)
    file: str | None = None
    insecure: bool = False

    @classmethod
    def of(cls, token: Any, insecure: Any) -> Token:
        """What `noised.connect` was given. No error repeats a token."""
        insecure = flag("insecure", insecure)
        if token is None:
            return cls(insecure=insecure)
        if isinstance(token, os.PathLike):
            return cls(file=path("token", token), insecure=insecure)
        if not text("token", token, "a token, or an os.PathLike of a file with one").startswith(_PREFIX):
            raise InvalidArgumentError(
                field="token",
                rule="must be a token, which begins with noised_, found another string; the path of a file "
                "with a token is pathlib.Path(...)",
            )
        return cls(text=token, insecure=insecure)

    @property
    def is_given(self) -> bool:
        """Whether there is a token."""
        return self.text is not None or self.file is not None

    def check_pickled(self) -> None:
        """Keeps a token out of pickles: it would lie wherever they do."""
        if self.text is not None:
            raise CannotPickleError(
                "a client with a token cannot be pickled, since the token would be in the pickle: connect "
                "with the path of a file with the token, token=pathlib.Path(...), or in the other process"
            )
