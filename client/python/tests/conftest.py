"""Servers for the tests: real processes, on ports of their own."""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import noised

#: Tests of an adapter are for where the library that it adapts is.
collect_ignore_glob = [
    pattern
    for module, pattern in (("opacus", "test_torch_opacus.py"), ("torch", "test_torch*.py"))
    if importlib.util.find_spec(module) is None
]

# A program that is started in the background may be told to ignore a Ctrl-C, and so would be what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_ROOT = Path(__file__).parents[3]
_MASTER_KEY = bytes(range(32))


class Server:
    """A server process. It may be killed and started again at the same place."""

    def __init__(self, directory: Path, listen: str = "127.0.0.1:0", *arguments: str) -> None:
        self._directory = directory
        self._listen = listen
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it serves."""
        program = os.environ.get("NOISED_PROGRAM", str(_ROOT / "target/debug/noised"))
        key = self._directory / "master.key"
        if not key.exists():
            key.write_bytes(_MASTER_KEY)
            key.chmod(0o600)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NOISED_")}
        command = [
            program,
            "serve",
            "--listen",
            self._listen,
            "--master-key-file",
            str(key),
            *self._arguments,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        said = []
        while (line := lines.get(timeout=60)) is not None:
            said.append(line)
            plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
            if (found := re.search(r"serving.*address=(\S+)", plain)) is not None:
                # A server that is started again is found where it was.
                if not self._listen.startswith("unix"):
                    self._listen = found[1]
                self._process = process
                return
        raise AssertionError("the server has ended:\n" + "".join(said))

    @property
    def target(self) -> str:
        """Where it is."""
        return self._listen

    def kill(self) -> None:
        """Gives it no chance to do anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Has it drain."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """It stands still: it answers nothing, and its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def proceed(self) -> None:
        """Ends a pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, by: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(by)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(timeout=60)
            self._process = None


def settle(session: noised.Session) -> None:
    """Waits until a handle has what it asked for ahead, so that it takes no step from another handle any more."""
    ahead = session._ahead
    if ahead is not None and ahead._mailbox.request is not None:
        ahead._mailbox.request.answer.exception(timeout=60)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that no test kills."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of a test's own, which it may kill."""
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def client(shared_server: Server) -> noised.Client:
    """A client of the server that no test kills."""
    return noised.connect(shared_server.target)


@pytest.fixture(params=["server", "local"])
def anywhere(request: pytest.FixtureRequest, shared_server: Server) -> noised.Client:
    """A client of a server, and one of this process."""
    return noised.connect(shared_server.target if request.param == "server" else "local:")
