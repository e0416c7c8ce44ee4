"""`python -m noised [TARGET ...]`: what is installed, and whether servers answer."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import noised

#: What each optional part of the package needs.
_NEEDS = {"jax": ("jax", "optax"), "torch": ("torch",), "opacus": ("torch", "opacus")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints it. The exit code is 1 where a server does not answer."""
    parser = argparse.ArgumentParser(
        prog="python -m noised",
        description="Says which version this is, which adapters can be used, and whether servers answer.",
        epilog="The server is the program noised, and noisectl its command line: neither comes with this package.",
    )
    parser.add_argument(
        "target", nargs="*", help="a server, as noised.connect takes it: host:port or unix:///path"
    )
    parser.add_argument("--version", action="version", version=f"noised {noised.__version__}")
    parser.add_argument(
        "--patience", type=float, default=5.0, metavar="SECONDS", help="how long a server is waited for [5]"
    )
    found = parser.parse_args(arguments)
    print(f"noised {noised.__version__} (Python {platform.python_version()}, NumPy {version('numpy')})")
    for extra, packages in _NEEDS.items():
        print(f"  noised[{extra}]: {_installed(extra, packages)}")
    answers = [_asked(target, found.patience) for target in found.target]
    return 0 if all(answers) else 1


def _installed(extra: str, packages: tuple[str, ...]) -> str:
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            return f"{package} is not installed: pip install 'noised[{extra}]'"
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _asked(target: str, patience: float) -> bool:
    try:
        sessions = len(noised.connect(target, patience=patience).list_sessions())
    except noised.NoisedError as error:
        print(f"  {target}: {error}")
        return False
    print(f"  {target}: answers, and holds {sessions} session{'' if sessions == 1 else 's'}")
    return True


if __name__ == "__main__":
    sys.exit(main())
