"""Packages that an adapter needs and this package does not."""

from __future__ import annotations

from noised.errors import MissingPackageError


def missing(error: ImportError, extra: str) -> ImportError:
    """The error that says what to install, where a package is not there; else the error itself.

    Args:
        error: What an import raised.
        extra: The optional part of this package that needs it.
    """
    if not isinstance(error, ModuleNotFoundError):
        return error
    return MissingPackageError(
        f"noised.{'torch' if extra == 'opacus' else extra} needs the package {error.name}, which is not installed: "
        f"pip install 'noised[{extra}]'",
        name=error.name,
    )
