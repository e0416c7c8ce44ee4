"""A training run that is killed and resumed ends as if nothing had happened: bit for bit.

    python examples/python/resume.py

A process trains on digits in JAX, with the noise of a session on a server, and writes a checkpoint now and then. It is
killed (SIGKILL) between two checkpoints; another one goes on from the last. A third trains without being interrupted,
on noise of the same key. Their parameters must be the same.
"""

from __future__ import annotations

import argparse
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import digits
import jax
import numpy as np
import optax
from digits import Setup
from train_jax import initial, sum_of_clipped_grads

import noised.jax

#: Steps between two checkpoints.
EVERY = 20


def train(target: str, directory: Path, key: bytes, setup: Setup, die_at: int | None) -> Any:
    """Trains to the end, from the last checkpoint of a directory if there is one.

    Args:
        target: Where the session is.
        directory: Where checkpoints are written.
        key: Of the noise: two runs can be compared only where they have the same. A real run leaves it out.
        setup: The run.
        die_at: Get killed before this step.

    Returns:
        The parameters.
    """
    mechanism = digits.mechanism("blt", setup)
    data = digits.load()
    path = directory / "checkpoint"
    saved = pickle.loads(path.read_bytes()) if path.exists() else None
    # The session is bound to matrix, stddev, horizon and all else: a checkpoint cannot go on with other noise.
    privatizer = noised.jax.privatizer(
        mechanism.noising_matrix,
        stddev=mechanism.stddev,
        client=target,
        noise_key=key,
        horizon=setup.steps,
        resume_from=None if saved is None else saved["noise"],
    )
    optimizer = optax.chain(
        privatizer, optax.scale(1 / setup.batch_size), optax.sgd(setup.rate("blt"), momentum=0.5)
    )

    @jax.jit
    def step_of(params: Any, state: Any, images: Any, labels: Any) -> Any:
        gradients = sum_of_clipped_grads(params, images, labels, setup.clip)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = initial(0)
    state = optimizer.init(params)
    first = 0
    if saved is not None:
        first, params, state = saved["step"], saved["params"], saved["state"]
        print(f"  goes on at step {first}")
    for step in range(first, setup.steps):
        if step == die_at:
            print(f"  is killed before step {step}", flush=True)
            os.kill(os.getpid(), 9)
        params, state = step_of(params, state, *data.batch(step, setup.batch_size))
        if (step + 1) % EVERY == 0:
            # The optimizer's state has the step in it; `noise` is where the session is, and what it was made for.
            arrays = jax.tree.map(np.asarray, {"params": params, "state": state})
            checkpoint = {"step": step + 1, "noise": privatizer.state_bytes(), **arrays}
            # Whole, or not at all.
            part = path.with_suffix(".part")
            part.write_bytes(pickle.dumps(checkpoint))
            part.rename(path)
    # Nobody goes on with it: the server need not keep it.
    privatizer.session.delete()
    return jax.tree.map(np.asarray, params)


def run(target: str, directory: Path, key: bytes, short: bool, die_at: int | None) -> int:
    """Trains in a process of its own, and gives its exit status."""
    command = [sys.executable, __file__, "--server", target, "--directory", str(directory)]
    command += ["--short"] if short else []
    command += [] if die_at is None else ["--die-at", str(die_at)]
    return subprocess.run(command, check=False, env={**os.environ, "NOISE_KEY": key.hex()}).returncode


def main() -> int:
    """Compares two runs, or is one of them."""
    parser = argparse.ArgumentParser(description="Kill a training run and resume it.")
    parser.add_argument("--server", help="where noised serves; a server is started unless given")
    parser.add_argument("--short", action="store_true", help="a run of seconds, to see that it works")
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--die-at", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server == "local:":
        parser.error("--server must not be local:, whose sessions end with the process that is killed")
    setup = Setup(epochs=2) if options.short else Setup()
    if options.directory is not None:
        key = bytes.fromhex(os.environ["NOISE_KEY"])
        params = train(options.server, options.directory, key, setup, options.die_at)
        (options.directory / "params").write_bytes(pickle.dumps(params))
        return 0
    key = secrets.token_bytes(32)
    with digits.server(options.server) as target, tempfile.TemporaryDirectory() as directory:
        places = [Path(directory, name) for name in ("broken", "whole")]
        for place in places:
            place.mkdir()
        # Between two checkpoints, so that steps which were taken are taken again.
        die_at = setup.steps // 2 // EVERY * EVERY + EVERY // 2
        print("a run that is killed")
        if run(target, places[0], key, options.short, die_at) != -9:
            raise SystemExit("it was to be killed")
        print("the same, resumed")
        if run(target, places[0], key, options.short, None):
            raise SystemExit("it did not go on")
        print("a run that is never interrupted")
        if run(target, places[1], key, options.short, None):
            raise SystemExit("it failed")
        broken, whole = (pickle.loads((place / "params").read_bytes()) for place in places)
    pairs = zip(jax.tree.leaves(broken), jax.tree.leaves(whole), strict=True)
    same = all(a.tobytes() == b.tobytes() for a, b in pairs)
    print(f"after {setup.steps} steps, the parameters {'are the same, bit for bit' if same else 'DIFFER'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
