"""TLS: whose certificates of servers are taken, and which clients a server takes."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server

import noised
import noised.aio
from noised.errors import InvalidArgumentError, TlsError

ROOT = Path(__file__).parents[3]
ONES = {"w": np.ones(3, np.float32)}


def authority(directory: Path) -> Path:
    """A folder with the files that the first steps of docs/identity.md make."""
    found = re.search(r"```sh\n(.*?)^noised serve ", (ROOT / "docs/identity.md").read_text(), re.S | re.M)
    assert found is not None
    directory.mkdir()
    subprocess.run(["sh", "-eu", "-c", found[1]], cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority of the server and of its trainer."""
    return authority(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another authority."""
    return authority(tmp_path_factory.mktemp("tls") / "other")


def secure(directory: Path, files: Path) -> Server:
    """A server that takes the clients of its authority alone."""
    directory.mkdir()
    options = {"--tls-cert": "server.pem", "--tls-key": "server.key", "--tls-client-ca": "ca.pem"}
    arguments = [word for name, file in options.items() for word in (name, str(files / f"noised-{file}"))]
    return Server(directory, "127.0.0.1:0", *arguments)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[list[str]]:
    """Where two such servers are."""
    place = tmp_path_factory.mktemp("servers")
    both = [secure(place / "0", files), secure(place / "1", files)]
    yield [f"https://{server.target}" for server in both]
    for server in both:
        server.kill()


@pytest.fixture(scope="module")
def trainer(files: Path) -> noised.Tls:
    """What the trainer of the documents has."""
    return noised.Tls(
        ca=files / "noised-ca.pem", cert=files / "noised-trainer.pem", key=files / "noised-trainer.key"
    )


def take_steps(client: noised.Client) -> None:
    """Two steps, whose answers are known."""
    with client.create_session(noised.prefix_sum(), ONES) as session:
        for sums in (1.0, 2.0):
            np.testing.assert_array_equal(session.multiply_next(ONES)["w"], np.full(3, sums, np.float32))


def test_a_session_over_mutual_tls(servers: list[str], trainer: noised.Tls) -> None:
    client = noised.connect(servers[0], tls=trainer)
    assert client.targets == [servers[0]]
    take_steps(client)
    take_steps(noised.connect(servers[0], tls=replace(trainer, server_name="localhost")))


def test_several_servers(servers: list[str], trainer: noised.Tls) -> None:
    take_steps(noised.connect(servers, tls=trainer))


def test_asyncio(servers: list[str], trainer: noised.Tls) -> None:
    async def step() -> Any:
        client = await noised.aio.connect(servers[0], tls=trainer)
        async with await client.create_session(noised.prefix_sum(), ONES) as session:
            return await session.multiply_next(ONES)

    np.testing.assert_array_equal(asyncio.run(step())["w"], ONES["w"])


def test_a_pickled_client_speaks_tls(servers: list[str], trainer: noised.Tls) -> None:
    client = noised.connect(servers[0], patience=7.5, tls=trainer)
    sent = pickle.dumps(client)
    assert b"PRIVATE KEY" not in sent
    for again in (pickle.loads(sent), copy.copy(client)):
        take_steps(again)


def test_a_checkpoint_is_resumed_with_a_client(servers: list[str], trainer: noised.Tls) -> None:
    client = noised.connect(servers[0], tls=trainer)
    with client.create_session(noised.prefix_sum(), ONES, id="checkpoint") as session:
        session.multiply_next(ONES)
        state = session.state()
    with pytest.raises(InvalidArgumentError, match=r"must be given for a session on https://") as refused:
        noised.resume(state, ONES)
    assert refused.value.field == "client"
    with noised.resume(state, ONES, client=client) as session:
        assert session.step == 1
        session.delete()


def refusal(target: str | list[str], tls: noised.Tls) -> str:
    """What the error of TLS says. It is told at once, although the client has patience."""
    with pytest.raises(TlsError) as refused:
        noised.connect(target, tls=tls, patience=60.0).list_sessions()
    again = pickle.loads(pickle.dumps(refused.value))
    assert type(again) is TlsError
    assert str(again) == str(refused.value)
    return str(again)


def test_a_server_of_another_authority_is_refused(
    servers: list[str], trainer: noised.Tls, other: Path
) -> None:
    assert "invalid peer certificate" in refusal(servers[0], replace(trainer, ca=other / "noised-ca.pem"))
    assert "not valid for name" in refusal(servers[0], replace(trainer, server_name="noised.example"))


def test_a_client_without_a_certificate_of_the_authority_is_refused(
    servers: list[str], trainer: noised.Tls, other: Path
) -> None:
    alone = noised.Tls(ca=trainer.ca)
    assert "CertificateRequired" in refusal(servers[0], alone)
    assert "CertificateRequired" in refusal(servers, alone)
    stranger = replace(trainer, cert=other / "noised-trainer.pem", key=other / "noised-trainer.key")
    assert "the server refused" in refusal(servers[0], stranger)


def test_files_that_cannot_be_used_are_named(servers: list[str], trainer: noised.Tls, files: Path) -> None:
    assert re.search(r"tls\.ca: .*absent\.pem", refusal(servers[0], noised.Tls(files / "absent.pem")))
    swapped = replace(trainer, cert=trainer.key, key=trainer.cert)
    assert re.search(r"tls\.(cert|key): ", refusal(servers[0], swapped))


def test_who_speaks_tls_and_who_does_not_are_told(
    servers: list[str], trainer: noised.Tls, shared_server: Server
) -> None:
    with pytest.raises(TlsError, match="write https://"):
        noised.connect(servers[0].removeprefix("https://")).list_sessions()
    assert "write http://" in refusal(f"https://{shared_server.target}", trainer)


@pytest.mark.parametrize(
    ("target", "has_tls", "rule"),
    [
        ("https://127.0.0.1:1", False, r"must be set where a target is https://host:port: noised\.connect"),
        (["127.0.0.1:1", "https://127.0.0.1:1"], False, "must be set"),
        ("local:", True, "must not be set where a target is not https://host:port, found 'local:'"),
        ("127.0.0.1:1", True, r"must not be set .*, found '127\.0\.0\.1:1'"),
        ("unix:///noised.sock", True, "must not be set .*, found 'unix:///noised.sock'"),
        (["https://127.0.0.1:1", "127.0.0.1:1"], True, r"must not be set .*, found '127\.0\.0\.1:1'"),
    ],
)
def test_tls_and_the_target_go_together(trainer: noised.Tls, target: Any, has_tls: bool, rule: str) -> None:
    with pytest.raises(InvalidArgumentError, match=rule) as refused:
        noised.connect(target, tls=trainer if has_tls else None)
    assert refused.value.field == "tls"


def test_a_name_that_is_none_is_refused(servers: list[str], trainer: noised.Tls) -> None:
    with pytest.raises(InvalidArgumentError, match="must be a host name or an address") as refused:
        noised.connect(servers[0], tls=replace(trainer, server_name="not a name"))
    assert refused.value.field == "tls.server_name"


def test_paths_are_strings_or_path_likes() -> None:
    class Place:
        def __fspath__(self) -> str:
            return "ca.pem"

    assert noised.Tls(Place()) == noised.Tls("ca.pem") == noised.Tls(Path("ca.pem"))
    assert noised.Tls("ca.pem").ca == "ca.pem"
    assert hash(noised.Tls("ca.pem", server_name="a")) == hash(noised.Tls(Path("ca.pem"), server_name="a"))
    for odd in (os.fsencode("ca.pem"), "", "a\0b", "\ud800"):
        with pytest.raises(InvalidArgumentError) as refused:
            noised.Tls(odd)  # type: ignore[arg-type]
        assert refused.value.field == "tls.ca"
