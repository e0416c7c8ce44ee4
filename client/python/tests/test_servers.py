"""A session in shards on several servers, and over a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server

import noised
from noised.errors import CannotResumeError, SessionNotFoundError, WrongStepError

BLT = noised.BufferedToeplitz.build([0.9, 0.5], [0.1, 0.2]).inverse_as_streaming_matrix()
PARAMS = {"a": np.zeros((10, 3), np.float32), "b": np.zeros(11, np.float16)}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Two with the same master key, one of them on a Unix socket."""
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    both = [
        Server(tmp_path / "0"),
        Server(tmp_path / "1", f"unix://{tmp_path / 'noised.sock'}"),
    ]
    yield both
    for server in both:
        server.kill()


def flat(tree: Any) -> Any:
    return np.concatenate([np.asarray(tree["a"], np.float32).ravel(), np.asarray(tree["b"], np.float32)])


@pytest.mark.parametrize("cut", ["lanes", "leaves"])
def test_two_servers_are_as_one(servers: list[Server], client: noised.Client, cut: Any) -> None:
    both = noised.connect([server.target for server in servers])
    source = noised.Gaussian(1.0, noise_id="both/1")
    with both.create_session(BLT, PARAMS, source, cut=cut) as session:
        drawn = [flat(session.fetch()) for _ in range(4)]
        assert len(session.info()) == 2
        assert [shard["name"] for shard in both.get_shards(session.names)] == session.names
        state = session.state()
        drawn += [flat(session.fetch()) for _ in range(2)]
        with pytest.raises(WrongStepError) as wrong:
            session.fetch(step=9)
        assert wrong.value.expected == 6
    resumed = noised.resume(state, PARAMS)
    assert resumed.step == 4
    np.testing.assert_array_equal(flat(resumed.fetch()), drawn[4])
    names = resumed.names
    resumed.delete()
    with pytest.raises(SessionNotFoundError) as gone:
        both.open_session(names, PARAMS)
    assert gone.value.shard in (0, 1)
    assert gone.value.server is not None
    with client.create_session(BLT, PARAMS, source, start_noise_over=True) as whole:
        for t in range(6):
            np.testing.assert_array_equal(flat(whole.fetch()), drawn[t])


def test_a_server_that_is_killed_is_named(servers: list[Server]) -> None:
    both = noised.connect([server.target for server in servers], patience=0.2)
    ones = {"a": np.ones((10, 3), np.float32), "b": np.ones(11, np.float16)}
    with both.create_session(noised.prefix_sum(), ones, id="shards") as session:
        session.multiply_next(ones)
        assert both.open_session("shards", ones).step == 1
        assert [shard["next_step"] for shard in both.get_shards("shards")] == [1, 1]
        servers[1].kill()
        with pytest.raises(ConnectionError, match="shard 1 on unix"):
            session.multiply_next(ones)
        assert session.step == 1


def test_a_privatizer_resumes_on_both_or_says_why(servers: list[Server]) -> None:
    pytest.importorskip("optax")
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    import noised.jax  # noqa: PLC0415

    targets = [server.target for server in servers]
    params = {"a": jnp.zeros((10, 3)), "b": jnp.zeros(11)}
    made: dict[str, Any] = {"client": targets, "stddev": 1.0, "horizon": 10, "noise_id": "both/2"}
    with noised.jax.privatizer(BLT, **made) as privatizer:
        state = privatizer.init(params)
        noises = []
        for _ in range(3):
            checkpoint = privatizer.state_bytes()
            noise, state = privatizer.update(params, state)
            noises.append(noise)
    for other in ({"stddev": 1000.0}, {"horizon": 5}):
        with pytest.raises(CannotResumeError):
            noised.jax.privatizer(BLT, **{**made, **other}, resume_from=checkpoint).init(params)
    with noised.jax.privatizer(BLT, **made, resume_from=checkpoint) as privatizer:
        again, _ = privatizer.update(params, privatizer.init(params))
        assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(noises[2])))
        privatizer.session.delete()
