"""Where the modules of this package are found: beside it, those that somebody makes from its `.proto` files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path


class ExtendedPath(list[str]):
    """The path of a package that shares its name with the packages of a protocol, `noised.v1` and what follows.

    Stubs that are made from `proto/` are modules `noised.v1`, in a folder of their own. Wherever that is on `sys.path`, the
    folder `noised` in it is a part of this package. What is in this package's own folder comes first.
    """

    def __iter__(self) -> Iterator[str]:
        own = list(super().__iter__())
        yield from own
        # Python's own import passes over an entry that is not a text.
        for entry in dict.fromkeys(entry for entry in sys.path if isinstance(entry, str)):
            folder = Path(entry or ".") / "noised"
            # Stubs are in `noised/v1`. A folder `noised` without it belongs to another package. `os.path.isdir` is False for
            # a folder that may not be read; `Path.is_dir` raises there.
            if str(folder) not in own and os.path.isdir(folder / "v1"):
                yield str(folder)
