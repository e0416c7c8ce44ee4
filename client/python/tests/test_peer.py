"""The documented change of a script of jax_privacy: what it leads to runs, and does the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax_privacy")
jax = pytest.importorskip("jax")

_HERE = Path(__file__).parent
_SCRIPT = (_HERE / "peer/jax_privacy_script.py").read_text()


def documented() -> list[str]:
    """The lines of the diff in docs/training.md."""
    text = (_HERE.parents[2] / "docs/training.md").read_text()
    found: list[str] = re.findall(r"^```diff\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return found[0].splitlines()


def changed(script: str, lines: list[str]) -> str:
    """The script with a diff applied. Lines that stay or go must be in it, in this order."""
    rest, written = script.splitlines(), []
    for line in lines:
        kind, text = line[:1], line[1:]
        if kind == "@":
            continue
        if kind == "+":
            written.append(text)
            continue
        while rest[0] != text:
            written.append(rest.pop(0))
        if kind == " ":
            written.append(text)
        rest.pop(0)
    return "\n".join(written + rest) + "\n"


def train(script: str, noise_multiplier: float) -> Any:
    """The parameters after a run."""
    space: dict[str, Any] = {"__name__": "script"}
    exec(compile(script, "script", "exec"), space)
    return jax.tree.map(np.asarray, space["train"](noise_multiplier))


def test_the_change_is_the_import_and_the_construction() -> None:
    script = changed(_SCRIPT, documented())
    before, after = _SCRIPT.splitlines(), script.splitlines()
    gone = [line for line in before if line not in after]
    come = [line for line in after if line not in before]
    assert all("import" in line or "stddev=stddev" in line for line in gone + come), (gone, come)
    assert "prng_key" not in script


def test_both_scripts_train() -> None:
    pytest.importorskip("noised.jax")
    script = changed(_SCRIPT, documented())
    # Without noise, the two do the same, step for step.
    peers, ours = train(_SCRIPT, 0.0), train(script, 0.0)
    jax.tree.map(np.testing.assert_array_equal, peers, ours)
    # With noise, they learn the same, each with noise of its own.
    noisy_peers, noisy = train(_SCRIPT, 0.1), train(script, 0.1)
    assert not np.array_equal(noisy["w"], noisy_peers["w"])
    for found in (noisy, noisy_peers):
        assert not np.array_equal(found["w"], ours["w"])
        np.testing.assert_allclose(found["w"], ours["w"], atol=1.0)
