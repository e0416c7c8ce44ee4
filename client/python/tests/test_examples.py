"""The examples, each in its short form, against a real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Server

import noised

_EXAMPLES = Path(__file__).parents[3] / "examples/python"


def run(name: str, *arguments: str) -> str:
    """What an example prints."""
    command = [sys.executable, str(_EXAMPLES / name), "--short", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _what_they_need() -> None:
    for module in ("jax", "optax", "sklearn"):
        pytest.importorskip(module)


def test_train_jax(shared_server: Server, client: noised.Client, tmp_path: Path) -> None:
    before = len(client.list_sessions())
    pytest.importorskip("matplotlib")
    drawing = tmp_path / "digits.svg"
    said = run("train_jax.py", "--server", shared_server.target, "--plot", str(drawing))
    accuracies = dict(
        line.split("(lowest")[0].split()[::5] for line in said.splitlines() if "(lowest" in line
    )
    assert list(accuracies) == ["independent", "blt", "banded"]
    assert all(0 < float(accuracy.rstrip("%")) < 100 for accuracy in accuracies.values())
    assert drawing.read_text().startswith("<?xml")
    assert len(client.list_sessions()) == before


def test_train_jax_without_a_server() -> None:
    said = run("train_jax.py", "--server", "local:", "--mechanisms", "blt", "--epochs", "1")
    assert "30 steps" in said


def test_resume(shared_server: Server, client: noised.Client) -> None:
    before = len(client.list_sessions())
    said = run("resume.py", "--server", shared_server.target)
    assert "is killed before step 30" in said
    assert "goes on at step 20" in said
    assert said.endswith("after 60 steps, the parameters are the same, bit for bit\n")
    assert len(client.list_sessions()) == before
