"""Trees: nests of dicts, lists, tuples and dataclasses, taken apart into named leaves and put together again.

The order of leaves is that of JAX: dicts by sorted key, `OrderedDict`s and dataclasses as they are written. Types that
are registered with JAX as pytrees are taken apart as JAX does.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from noised.errors import InvalidArgumentError

#: The path of a tree that is a single array.
ROOT = "value"

Rebuild = Callable[[Iterator[Any]], Any]
#: The children of a node with their keys, and what makes such a node of as many others.
Parts = tuple[list[tuple[str, Any]], Callable[[list[Any]], Any]]


def flatten(tree: Any) -> tuple[list[tuple[str, Any]], Rebuild]:
    """The leaves of a tree with their paths, and what puts as many leaves together in the same way."""
    leaves: list[tuple[str, Any]] = []
    rebuild = _take_apart(tree, "", leaves)
    return leaves, rebuild


def _take_apart(node: Any, path: str, leaves: list[tuple[str, Any]]) -> Rebuild:
    if type(node) is np.ndarray:
        # Known at a glance.
        leaves.append((path or ROOT, node))
        return next
    if node is None:
        return lambda values: None
    parts = _parts(node, path)
    if parts is None:
        leaves.append((path or ROOT, node))
        return next
    children, make = parts
    rebuilds = [_take_apart(child, f"{path}/{key}" if path else key, leaves) for key, child in children]
    return lambda values: make([rebuild(values) for rebuild in rebuilds])


def _parts(node: Any, path: str) -> Parts | None:
    """The children of a node with their keys, and what makes such a node of as many others; `None` for a leaf."""
    kind = type(node)
    if kind in (list, tuple):
        return [(str(i), child) for i, child in enumerate(node)], kind
    if kind is dict or isinstance(node, (OrderedDict, defaultdict)):
        return _parts_of_mapping(node, path)
    if isinstance(node, tuple) and hasattr(kind, "_fields"):
        fields = kind._fields
        return [(name, getattr(node, name)) for name in fields], lambda values: kind(*values)
    return _parts_of_registered(node) or _parts_of_others(node, path)


def _parts_of_others(node: Any, path: str) -> Parts | None:
    if isinstance(node, Mapping):
        return _parts_of_mapping(node, path)
    if dataclasses.is_dataclass(node) and not isinstance(node, type) and not hasattr(node, "dtype"):
        return _parts_of_dataclass(node, path)
    return None


def _parts_of_dataclass(node: Any, path: str) -> Parts:
    kind, names = type(node), [field.name for field in dataclasses.fields(node)]
    for field in dataclasses.fields(node):
        if not field.init:
            raise InvalidArgumentError(
                field=f"tree.{path or ROOT}",
                rule=f"has the field {field.name}, which {kind.__name__} does not take: it could not be made again",
            )
    return (
        [(name, getattr(node, name)) for name in names],
        lambda values: kind(**dict(zip(names, values, strict=True))),
    )


def _parts_of_mapping(node: Mapping[Any, Any], path: str) -> Parts:
    # What makes the answers must not hold on to the tree that it was made from, nor see it change.
    kind, written = type(node), list(node)
    keys = list(written)
    if not isinstance(node, OrderedDict):
        try:
            keys.sort()
        except TypeError:
            raise InvalidArgumentError(
                field=f"tree.{path or ROOT}", rule="has keys that cannot be sorted: they must be of one type"
            ) from None
    factory = node.default_factory if isinstance(node, defaultdict) else None

    def make(values: list[Any]) -> Any:
        found = dict(zip(keys, values, strict=True))
        # In the order in which the caller wrote them.
        items = {key: found[key] for key in written}
        if kind is dict:
            return items
        try:
            return kind(items) if factory is None else kind(factory, items)  # type: ignore[call-arg]
        except TypeError:
            # It is made otherwise, and has the items of a dict all the same.
            return items

    return [(str(key), node[key]) for key in keys], make


def _registry() -> Any:
    jax = sys.modules.get("jax")
    return None if jax is None else getattr(getattr(jax, "tree_util", None), "default_registry", None)


def _parts_of_registered(node: Any) -> Parts | None:
    registry = _registry()
    if registry is None or hasattr(node, "dtype"):
        return None
    try:
        one_level = registry.flatten_one_level(node)
    except ValueError:
        return None
    if one_level is None:
        return None
    import jax  # noqa: PLC0415  It is imported already.

    stop = [False]

    def is_child(_: Any) -> bool:
        # The node itself is taken apart, and nothing below it.
        first, stop[0] = not stop[0], True
        return not first

    with_paths, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=is_child)
    children = [("/".join(map(_name, keys)), child) for keys, child in with_paths]
    return children, lambda values: jax.tree_util.tree_unflatten(structure, values)


def path_of(keys: tuple[Any, ...]) -> str:
    """The path of a leaf, of JAX's keys of the nodes above it."""
    return "/".join(map(_name, keys)) or ROOT


def _name(key: Any) -> str:
    """How JAX's key of a child is written in a path."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def difference(expected: list[str], found: list[str], made_for: str) -> str:
    """The rule that a tree of the paths `found` breaks, where it must have those that are `expected`."""
    said = [
        f"{', '.join(sorted(paths)[:3])}{' ...' if len(paths) > 3 else ''} {what}"
        for paths, what in (
            (set(expected) - set(found), "missing"),
            (set(found) - set(expected), "not part of it"),
        )
        if paths
    ]
    return f"must have the leaves that {made_for}: {'; '.join(said) or 'their order differs'}"
