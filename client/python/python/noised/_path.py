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
        # What is no text is no entry for Python's own import either.
        for entry in dict.fromkeys(entry for entry in sys.path if isinstance(entry, str)):
            folder = Path(entry or ".") / "noised"
            # Another package of this name is none of this protocol's folders, unless its `__init__` is made as well. A folder
            # that cannot be looked into has nothing for this package: `Path.is_dir` would raise.
            if str(folder) not in own and os.path.isdir(folder / "v1"):
                yield str(folder)
