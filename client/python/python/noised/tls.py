"""How TLS is spoken with a server: whose certificates are taken, and which one is shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from noised._check import is_a, maybe_text, path, shown
from noised.errors import InvalidArgumentError

#: How a target over TLS begins: an address, a list of them, or a name whose addresses are servers.
_OVER_TLS = ("https://", "dns+https:///")


def is_over_tls(target: str) -> bool:
    """Whether TLS is spoken with a target."""
    return target.startswith(_OVER_TLS)


@dataclass(frozen=True)
class Tls:
    """How a client speaks TLS 1.3 with a server at `https://host:port`.

    The client reads the files for every connection: it shows a renewed certificate from then on.

    Attributes:
        ca: A file in PEM with the authorities whose certificates the server may have. The client does not use
            the system's authorities.
        cert: A file in PEM with the certificate that the client shows, and with those that lead to its
            authority. A server with `--tls-client-ca` asks for the certificate.
        key: A file in PEM with the private key of `cert`.
        server_name: The name that the server's certificate must have; the host of the target unless set.

    Raises:
        InvalidArgumentError: A path is no string or `os.PathLike`, or only one of `cert` and `key` is set.
    """

    ca: str | os.PathLike[str]
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ca", path("tls.ca", self.ca))
        for name in ("cert", "key"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else path(f"tls.{name}", value))
        for name, other in (("cert", "key"), ("key", "cert")):
            if getattr(self, name) is None and getattr(self, other) is not None:
                raise InvalidArgumentError(field=f"tls.{name}", rule=f"must be set beside tls.{other}")
        maybe_text("tls.server_name", self.server_name)
        if self.server_name == "":
            raise InvalidArgumentError(
                field="tls.server_name", rule="must be a host name or an address, found ''"
            )


def check_for(tls: Any, targets: list[str]) -> None:
    """Holds `tls` and targets to each other: of several servers, no one gets its shard in the clear."""
    if tls is None:
        if any(map(is_over_tls, targets)):
            raise InvalidArgumentError(
                field="tls",
                rule="must be set where a target is https://host:port: "
                "noised.connect(target, tls=noised.Tls(ca=...))",
            )
        return
    is_a("tls", tls, Tls, "a noised.Tls")
    for target in targets:
        if not is_over_tls(target):
            raise InvalidArgumentError(
                field="tls",
                rule=f"must not be set where a target is not https://host:port, found {shown(target)}",
            )
