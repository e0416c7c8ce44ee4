"""Tokens: by which a server knows a client, and what each client may do."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server

import noised
import noised.aio
from noised.errors import (
    CannotPickleError,
    InvalidArgumentError,
    PermissionDeniedError,
    SessionNotFoundError,
    UnauthenticatedError,
)

ROOT = Path(__file__).parents[3]
ONES = {"w": np.ones(3, np.float32)}
NOT_KNOWN = "noised_" + "A" * 43


@dataclass
class Guarded:
    """A server with a tokens file."""

    server: Server
    tokens: Path

    def new_token(self, name: str, role: str = "trainer", *arguments: str) -> str:
        """The token that `noisectl token new` makes, once the server knows it."""
        program = Path(os.environ.get("NOISED_PROGRAM", ROOT / "target/debug/noised")).with_name("noisectl")
        file = str(self.tokens)
        command = [str(program), "token", "new", "--file", file, "--name", name, "--role", role, *arguments]
        token = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        self.wait(lambda: is_known(self.server.target, token))
        return token

    @staticmethod
    def wait(done: Callable[[], bool]) -> None:
        """The server looks at its files every two seconds."""
        for _ in range(600):
            if done():
                return
            time.sleep(0.1)
        raise AssertionError("the server does not read its tokens file again")


def is_known(target: str, token: str) -> bool:
    """Whether the server knows who has a token."""
    try:
        noised.connect(target, token=token).list_sessions()
    except UnauthenticatedError:
        return False
    except PermissionDeniedError:
        return True
    return True


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server that knows nobody yet."""
    place = tmp_path_factory.mktemp("guarded")
    tokens = place / "tokens.toml"
    tokens.touch(0o600)
    server = Server(place, "127.0.0.1:0", "--tokens-file", str(tokens))
    yield Guarded(server, tokens)
    server.kill()


@pytest.fixture(scope="module")
def trainer(guarded: Guarded) -> str:
    """The token of a trainer of a tenant."""
    return guarded.new_token("trainer", "trainer", "--tenant", "one")


def take_steps(client: noised.Client) -> None:
    """Two steps, whose answers are known."""
    with client.create_session(noised.prefix_sum(), ONES) as session:
        for sums in (1.0, 2.0):
            np.testing.assert_array_equal(session.multiply_next(ONES)["w"], np.full(3, sums, np.float32))


def test_a_client_with_a_token_takes_steps(guarded: Guarded, trainer: str, tmp_path: Path) -> None:
    take_steps(noised.connect(guarded.server.target, token=trainer))
    file = tmp_path / "token"
    file.write_text(trainer + "\n")
    take_steps(noised.connect(guarded.server.target, token=file))

    async def steps() -> None:
        client = await noised.aio.connect(guarded.server.target, token=file)
        assert await client.list_sessions() == []
        async with await client.create_session(noised.prefix_sum(), ONES) as session:
            np.testing.assert_array_equal((await session.multiply_next(ONES))["w"], ONES["w"])

    asyncio.run(steps())


def test_whoever_is_not_known_is_told(guarded: Guarded) -> None:
    for token in (None, NOT_KNOWN):
        client = noised.connect(guarded.server.target, token=token)
        with pytest.raises(UnauthenticatedError, match="token") as refused:
            client.list_sessions()
        assert "noised.connect(target, token=" in str(refused.value)
        assert NOT_KNOWN not in str(refused.value)


def test_a_role_and_rights_bound_what_a_caller_may_do(guarded: Guarded, trainer: str) -> None:
    analyst = noised.connect(guarded.server.target, token=guarded.new_token("analyst", "analyst"))
    noised.optimize("banded_toeplitz", 8, bands=2, client=analyst)
    with pytest.raises(PermissionDeniedError, match="analyst may not call CreateSession"):
        take_steps(analyst)
    source = noised.Gaussian(1.0, noise_key=bytes(range(32)))
    with pytest.raises(PermissionDeniedError, match="given_keys"):
        noised.connect(guarded.server.target, token=trainer).create_session(noised.prefix_sum(), ONES, source)
    with_right = guarded.new_token("with-right", "trainer", "--right", "given_keys")
    noised.connect(guarded.server.target, token=with_right).create_session(
        noised.prefix_sum(), ONES, source
    ).close()


def test_tenants_see_nothing_of_each_other(guarded: Guarded, trainer: str) -> None:
    one = noised.connect(guarded.server.target, token=trainer)
    two = noised.connect(guarded.server.target, token=guarded.new_token("two", "trainer", "--tenant", "two"))
    source = noised.Gaussian(1.0, noise_id="run")
    noises = []
    for client in (one, two):
        session = client.create_session(noised.prefix_sum(), ONES, source, id="run")
        noises.append(session.fetch()["w"])
        assert [info.name for info in client.list_sessions()] == ["sessions/run"]
    assert (noises[0] != noises[1]).all()
    one.delete_session("run")
    with pytest.raises(SessionNotFoundError):
        one.get_session("run")
    two.delete_session("run")


def test_a_checkpoint_goes_on_with_a_client_that_has_a_token(guarded: Guarded, trainer: str) -> None:
    client = noised.connect(guarded.server.target, token=trainer)
    session = client.create_session(noised.prefix_sum(), ONES, noised.Privatize(1.0), id="resumed")
    session.privatize(ONES)
    state = session.state()
    assert trainer.encode() not in state
    expected = session.privatize(ONES)["w"]
    with pytest.raises(UnauthenticatedError):
        noised.resume(state, ONES)
    again = noised.resume(state, ONES, client=client)
    np.testing.assert_array_equal(again.privatize(ONES)["w"], expected)
    client.delete_session("resumed")


def test_a_token_stays_out_of_pickles_and_texts(guarded: Guarded, trainer: str, tmp_path: Path) -> None:
    client = noised.connect(guarded.server.target, token=trainer)
    assert trainer not in f"{client!r} {vars(client)!r}"
    with pytest.raises(CannotPickleError, match=r"pathlib\.Path"):
        pickle.dumps(client)
    file = tmp_path / "token"
    file.write_text(trainer)
    pickled = pickle.dumps(noised.connect(guarded.server.target, token=file))
    assert trainer.encode() not in pickled
    take_steps(pickle.loads(pickled))


def test_a_token_that_is_replaced_in_its_file_is_used(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(guarded.new_token("before"))
    client = noised.connect(guarded.server.target, token=file)
    with client.create_session(noised.prefix_sum(), ONES) as session:
        session.multiply_next(ONES)
        old = file.read_text()
        file.write_text(guarded.new_token("after"))
        text = guarded.tokens.read_text()
        entries = [entry for entry in text.split("[[token]]\n") if '"before"' not in entry]
        guarded.tokens.write_text("[[token]]\n".join(entries))
        guarded.wait(lambda: not is_known(guarded.server.target, old))
        np.testing.assert_array_equal(session.multiply_next(ONES)["w"], np.full(3, 2.0, np.float32))


@pytest.mark.parametrize(
    ("options", "field", "rule"),
    [
        ({"token": "hunter2"}, "token", "must be a token, which begins with noised_"),
        ({"token": "noised_short"}, "token", "must be a token"),
        ({"token": 5}, "token", "must be a token, or an os.PathLike"),
        ({"token": Path("absent")}, "token", "absent"),
        ({"token": NOT_KNOWN, "insecure": 1}, "insecure", "must be True or False"),
        ({"token": NOT_KNOWN, "target": "local:"}, "token", "is for a server"),
        ({"token": NOT_KNOWN, "target": "192.0.2.1:7467"}, "token", "must not cross a network without TLS"),
    ],
)
def test_what_is_no_token_is_refused_without_showing_it(
    options: dict[str, Any], field: str, rule: str
) -> None:
    arguments = {"target": "127.0.0.1:1", "patience": 0.01, **options}
    with pytest.raises(InvalidArgumentError) as refused:
        noised.connect(**arguments)
    assert refused.value.field == field
    assert rule in refused.value.rule
    for secret in ("hunter2", NOT_KNOWN, "noised_short"):
        assert secret not in str(refused.value)
