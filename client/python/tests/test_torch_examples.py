"""The examples for PyTorch, in their short form."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Server

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

_EXAMPLES = Path(__file__).parents[3] / "examples/python"


def run(name: str, *arguments: str) -> str:
    """Runs an example as a user does, and gives what it prints."""
    command = [sys.executable, str(_EXAMPLES / name), "--short", *arguments]
    return subprocess.run(command, check=True, timeout=240, stdout=subprocess.PIPE, text=True).stdout


def test_train_torch(shared_server: Server, tmp_path: Path) -> None:
    told = run("train_torch.py", "--server", shared_server.target, "--plot", str(tmp_path / "plot.svg"))
    accuracies = dict(re.findall(r"^(\w+) .*? ([\d.]+)% \(", told, re.MULTILINE))
    assert accuracies.keys() == {"independent", "blt", "banded"}
    # One in ten is right by chance.
    assert all(float(accuracy) > 20 for accuracy in accuracies.values()), told
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_sharded(shared_server: Server) -> None:
    assert "the same parameters, bit for bit" in run("sharded.py", "--server", shared_server.target)
