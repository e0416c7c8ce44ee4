"""Trees are taken apart as JAX does, and come back as they were."""

from __future__ import annotations

import collections
import dataclasses
import enum
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from noised._tree import flatten
from noised.errors import InvalidArgumentError


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Layer:
    w: Any
    b: Any


@jax.tree_util.register_pytree_with_keys_class
class Odd:
    """A type of somebody's own that JAX knows."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey("inside"), self.inside)], None

    @classmethod
    def tree_unflatten(cls, _: Any, children: Any) -> Odd:
        return cls(*children)


class Colour(enum.Enum):
    RED = 1


def paths(tree: Any) -> list[str]:
    return [path for path, _ in flatten(tree)[0]]


def numbered(tree: Any) -> Any:
    leaves, rebuild = flatten(tree)
    return rebuild(iter(range(len(leaves))))


def test_every_kind_of_node_comes_back_as_it_was() -> None:
    x = np.zeros(1)
    tree = {"b": [x, (x, None)], "a": Pair(x, Layer(x, {"z": x})), "c": collections.OrderedDict(q=x, p=x)}
    assert paths(tree) == ["a/first", "a/second/w", "a/second/b/z", "b/0", "b/1/0", "c/q", "c/p"]
    back = numbered(tree)
    assert back == {
        "b": [3, (4, None)],
        "a": Pair(0, Layer(1, {"z": 2})),
        "c": collections.OrderedDict(q=5, p=6),
    }
    assert list(back) == ["b", "a", "c"]
    assert type(back["c"]) is collections.OrderedDict


def test_an_array_is_a_tree() -> None:
    assert paths(np.zeros(3)) == ["value"]
    assert numbered(np.zeros(3)) == 0


def test_the_order_is_that_of_jax() -> None:
    tree = {"b": 1.0, "a": {"y": 2.0, "x": [3.0, 4.0]}, "c": collections.OrderedDict(z=5.0, y=6.0)}
    assert [leaf for _, leaf in flatten(tree)[0]] == jax.tree.leaves(tree)


def test_types_that_jax_knows_are_taken_apart() -> None:
    tree = [Odd({"x": 1.0, "y": Odd(2.0)})]
    assert [leaf for _, leaf in flatten(tree)[0]] == jax.tree.leaves(tree)
    back = numbered(tree)
    assert back[0].inside["x"] == 0
    assert back[0].inside["y"].inside == 1
    assert len(set(paths(tree))) == 2


def test_keys_that_cannot_be_sorted_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"tree\.a.*sorted"):
        flatten({"a": {1: 0.0, "x": 1.0}})


@dataclasses.dataclass
class Half:
    w: Any
    b: Any = dataclasses.field(init=False, default=0.0)


class Special(dict):  # type: ignore[type-arg]
    """A dict of somebody's own."""


def test_mappings_come_back_as_what_they_are() -> None:
    tree: dict[str, Any] = {"d": collections.defaultdict(float, b=1.0, a=2.0), "s": Special(z=3.0)}
    back = numbered(tree)
    assert type(back["d"]) is collections.defaultdict
    assert type(back["s"]) is Special
    assert str(jax.tree.structure(back["d"])) == str(jax.tree.structure(tree["d"]))
    assert back["d"]["missing"] == 0.0


def test_what_could_not_be_made_again_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="has the field b"):
        flatten({"x": Half(1.0)})


def test_whatever_else_is_a_leaf() -> None:
    assert paths({"a": Colour.RED, "b": 3}) == ["a", "b"]
