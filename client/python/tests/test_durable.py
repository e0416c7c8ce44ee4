"""Training whose server is killed again and again, and goes on with a state directory: the same parameters, bit for bit."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server
from numpy.typing import NDArray

import noised

KEY = bytes(range(64, 96))
MATRIX = noised.BufferedToeplitz.build([0.9, 0.5], [0.2, 0.1]).inverse_as_streaming_matrix()

#: How often a server is killed while a model trains.
KILLS = 10


@contextmanager
def killed_again_and_again(directory: Path) -> Iterator[tuple[noised.Client, Callable[[int], bool]]]:
    """A client of a server that is killed and started anew; and whether a training goes on past a step."""
    server = Server(directory, "127.0.0.1:0", "--state", str(directory / "state"))
    begun, enough, ends = threading.Event(), threading.Event(), threading.Event()
    faults: list[BaseException] = []

    def kill() -> None:
        moments = random.Random(7)
        try:
            begun.wait()
            for _ in range(KILLS):
                if ends.wait(moments.uniform(0.02, 0.2)):
                    return
                server.kill()
                server.start()
        except BaseException as fault:
            faults.append(fault)
        finally:
            enough.set()

    def goes_on(step: int) -> bool:
        if step > 0:
            begun.set()
        return not enough.is_set()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield noised.connect(server.target, patience=120), goes_on
    finally:
        begun.set()
        ends.set()
        killer.join()
        server.kill()
    assert not faults, faults


def train_torch(client: noised.Client, source: Any, goes_on: Callable[[int], bool]) -> NDArray[np.float32]:
    """A small network's parameters after as many steps as are asked for."""
    torch = pytest.importorskip("torch")
    import noised.torch  # noqa: PLC0415

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(50, 40), torch.nn.Tanh(), torch.nn.Linear(40, 1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    inputs = torch.randn((64, 50), generator=torch.Generator().manual_seed(1))
    with noised.torch.Privatizer(
        module, MATRIX, 0.01, client=client, source=source, noise_key=KEY
    ) as privatizer:
        step = 0
        while goes_on(step):
            optimizer.zero_grad()
            (module(inputs) - inputs[:, :1]).square().mean().backward()
            privatizer.add_noise()
            optimizer.step()
            step += 1
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    parameters: NDArray[np.float32] = flat.numpy()
    return parameters


def train_jax(client: noised.Client, source: Any, goes_on: Callable[[int], bool]) -> NDArray[np.float32]:
    """The same in JAX."""
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    import noised.jax  # noqa: PLC0415

    inputs = jax.random.normal(jax.random.key(1), (64, 50))
    params = {"w": jax.random.normal(jax.random.key(0), (50, 40)), "v": jax.numpy.ones(40)}

    def gradients(params: Any) -> Any:
        def loss(params: Any) -> Any:
            return ((jax.numpy.tanh(inputs @ params["w"]) @ params["v"] - inputs[:, 0]) ** 2).mean()

        return jax.grad(loss)(params)

    compiled: Any = jax.jit(gradients)
    options: dict[str, Any] = {"stddev": 0.01, "source": source, "noise_key": KEY}
    with noised.jax.privatizer(MATRIX, client=client, **options) as privatizer:
        state, step = privatizer.init(params), 0
        while goes_on(step):
            noisy, state = privatizer.update(compiled(params), state)
            params = jax.tree.map(lambda value, change: value - 0.01 * change, params, noisy)
            step += 1
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params)])


@pytest.mark.parametrize("source", ["gaussian", "privatize"])
@pytest.mark.parametrize("train", [train_torch, train_jax])
def test_training_over_kills(train: Callable[..., Any], source: str, tmp_path: Path) -> None:
    taken = 0
    with killed_again_and_again(tmp_path) as (client, goes_on):

        def count(step: int) -> bool:
            nonlocal taken
            taken = step
            return goes_on(step)

        found = train(client, source, count)
    assert taken > 0
    undisturbed = train(noised.connect("local:"), source, lambda step: step < taken)
    np.testing.assert_array_equal(found, undisturbed)
