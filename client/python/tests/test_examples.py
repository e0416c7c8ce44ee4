"""The examples, each in its short form, against a real server."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server

import noised

_EXAMPLES = Path(__file__).parents[3] / "examples/python"


sys.path.insert(0, str(_EXAMPLES))


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
    # One in ten is right by chance.
    assert all(15 < float(accuracy.rstrip("%")) < 100 for accuracy in accuracies.values()), said
    assert drawing.read_text().startswith("<?xml")
    assert len(client.list_sessions()) == before


@pytest.mark.parametrize("name", ["independent", "blt", "banded"])
def test_the_noise_is_what_the_budget_takes(name: str) -> None:
    import digits  # noqa: PLC0415  It is beside the examples.

    setup = digits.Setup(epochs=4)
    chosen = digits.mechanism(name, setup)
    strategy = chosen.noising_matrix.inverse().materialize(setup.steps)
    # An example takes part in the same step of every epoch: its columns add up, as all of them are positive.
    first = [
        strategy[:, place :: setup.steps_per_epoch].sum(axis=1) for place in range(setup.steps_per_epoch)
    ]
    sensitivity = max(float(np.linalg.norm(column)) for column in first)
    multiplier = chosen.stddev / (setup.clip * sensitivity)
    found = noised.calibrate(1.0, noise_multiplier=multiplier, delta=setup.delta)
    assert found.epsilon == pytest.approx(setup.epsilon, rel=1e-6)


@pytest.mark.parametrize("module", ["train_jax", "train_torch"])
def test_the_noise_is_in_the_training(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    digits, trained = importlib.import_module("digits"), importlib.import_module(module)
    setup = digits.Setup(epochs=1, seeds=1)
    chosen = digits.mechanism("blt", setup)
    made: list[noised.Gaussian] = []
    create = noised.Client.create_session

    def spy(
        self: noised.Client, matrix: Any, tree: Any, source: Any = None, **options: Any
    ) -> noised.Session:
        made.append(source)
        assert matrix == chosen.noising_matrix
        assert options["horizon"] == setup.steps
        return create(self, matrix, tree, source, **options)

    monkeypatch.setattr(noised.Client, "create_session", spy)
    data, here = digits.load(), noised.connect("local:")
    if module == "train_jax":
        trained.train(data, setup, chosen, here, 0)
    else:
        trained.train(data, setup, chosen, 0, "local:")
    assert [source.stddev for source in made] == [chosen.stddev]


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
