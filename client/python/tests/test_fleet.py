"""Servers that share a store: a session is found at each, and goes on when its server is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server

import noised
import noised.aio
from noised.errors import InvalidArgumentError, SessionElsewhereError

KEY = bytes(range(64, 96))
MATRIX = noised.BufferedToeplitz.build([0.9, 0.5], [0.2, 0.1]).inverse_as_streaming_matrix()
PARAMS = {"w": np.zeros((40, 5), np.float32), "b": np.zeros(7, np.float32)}


def started(directory: Path) -> Server:
    return Server(
        directory,
        "127.0.0.1:0",
        *("--state", str(directory / "state")),
        *("--advertise", "http://127.0.0.1:0", "--lease", "1s"),
    )


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Two with one store."""
    both = [started(tmp_path), started(tmp_path)]
    yield both
    for server in both:
        server.kill()


def address(server: Server) -> str:
    return f"http://{server.target}"


def target(servers: list[Server]) -> str:
    """A list of addresses is one target."""
    return ",".join(map(address, servers))


def owner_of(servers: list[Server], info: noised.SessionInfo) -> Server:
    (owner,) = (server for server in servers if address(server) == info.owner)
    return owner


def undisturbed(source: Any, steps: int) -> list[Any]:
    with noised.connect("local:").create_session(MATRIX, PARAMS, source) as session:
        return [step(session, t) for t in range(steps)]


def step(session: noised.Session[Any], t: int) -> Any:
    if session.source == "gaussian":
        return session.fetch()
    return session.privatize({name: np.full_like(value, t) for name, value in PARAMS.items()})


def same(found: Any, expected: Any) -> None:
    for name in PARAMS:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("kind", [noised.Gaussian, noised.Privatize])
def test_a_session_goes_on_where_its_server_is_killed(servers: list[Server], kind: Any) -> None:
    source = kind(1.0, noise_key=KEY)
    expected = undisturbed(source, 8)
    client = noised.connect(target(servers))
    assert client.targets == [target(servers)]
    session = client.create_session(MATRIX, PARAMS, source, id="run")
    for t in range(4):
        same(step(session, t), expected[t])
    owner = owner_of(servers, client.get_session("run"))
    owner.kill()
    for t in range(4, 6):
        same(step(session, t), expected[t])
    (other,) = (server for server in servers if server is not owner)
    info = client.get_session("run")
    assert owner_of(servers, info) is other
    assert info.epoch > 0
    # The server that is back is asked first by some clients, and sends them on.
    owner.start()
    alone = noised.connect(address(owner), patience=0.5)
    with pytest.raises(SessionElsewhereError, match="add the address") as elsewhere:
        alone.get_session("run")
    assert elsewhere.value.owner == address(other)
    again = noised.connect(target(servers[::-1])).open_session("run", PARAMS)
    if kind is noised.Privatize:
        same(step(again, 6), expected[6])


def test_a_checkpoint_is_resumed_at_another_server(servers: list[Server]) -> None:
    source = noised.Privatize(1.0, noise_key=KEY)
    expected = undisturbed(source, 6)
    client = noised.connect(target(servers))
    session = client.create_session(MATRIX, PARAMS, source, id="run")
    for t in range(3):
        step(session, t)
    state = session.state()
    for t in range(3, 5):
        step(session, t)
    owner_of(servers, client.get_session("run")).kill()
    resumed = noised.resume(state, PARAMS)
    for t in range(3, 6):
        same(step(resumed, t), expected[t])


def test_shards_of_servers_that_share_a_store(servers: list[Server]) -> None:
    source = noised.Gaussian(1.0, noise_key=KEY)
    expected = undisturbed(source, 4)
    client = noised.connect([target(servers)] * 2)
    with client.create_session(MATRIX, PARAMS, source, id="run") as session:
        for t in range(2):
            same(step(session, t), expected[t])
        servers[0].kill()
        for t in range(2, 4):
            same(step(session, t), expected[t])


def test_asyncio_goes_on_as_well(servers: list[Server]) -> None:
    source = noised.Gaussian(1.0, noise_key=KEY)
    expected = undisturbed(source, 4)

    async def run() -> None:
        client = await noised.aio.connect(target(servers))
        async with await client.create_session(MATRIX, PARAMS, source, id="run") as session:
            for t in range(2):
                same(await session.fetch(), expected[t])
            owner_of(servers, await client.get_session("run")).kill()
            for t in range(2, 4):
                same(await session.fetch(), expected[t])

    asyncio.run(run())


def test_a_server_that_ends_hands_over(servers: list[Server]) -> None:
    source = noised.Privatize(1.0, noise_key=KEY)
    expected = undisturbed(source, 6)
    client = noised.connect(target(servers))
    session = client.create_session(MATRIX, PARAMS, source, id="run")
    for t in range(0, 6, 2):
        same(step(session, t), expected[t])
        owner = owner_of(servers, client.get_session("run"))
        owner.stop()
        same(step(session, t + 1), expected[t + 1])
        owner.start()


@pytest.mark.parametrize(
    "wrong", ["http://a:1,b:2", "http://a:1,", "http://a:1,https://b:2", "dns:///a", "http://a:1,http://a:1"]
)
def test_lists_that_are_none(wrong: str) -> None:
    with pytest.raises(InvalidArgumentError):
        noised.connect(wrong, patience=0)
