"""What goes wrong on the way: servers that are away, killed, started again or stand still; a Ctrl-C; a fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server

import noised
from noised.errors import (
    CannotResumeError,
    InvalidArgumentError,
    NoisedError,
    SessionNotFoundError,
    UnavailableError,
)

#: Large enough to go over a stream.
LANES = 1_000_000
PARAMS = {"w": noised.ShapeDtype((LANES,), "float32")}
ONES = {"w": np.ones(LANES, np.float32)}


def test_nobody_is_there() -> None:
    with pytest.raises(UnavailableError, match="nothing is lost") as away:
        noised.connect("127.0.0.1:1", patience=0.1)
    assert isinstance(away.value, ConnectionError)
    assert isinstance(away.value, NoisedError)


@pytest.mark.parametrize("target", ["", "https://a:1", "somewhere", "unix://", [], ["local:", "a:1"]])
def test_a_target_that_is_none_is_refused(target: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        noised.connect(target)


def fetch_some(session: noised.Session) -> None:
    """The first may be one that was fetched ahead."""
    for _ in range(3):
        session.fetch()


@pytest.mark.parametrize("params", [PARAMS, {"w": noised.ShapeDtype((10,), "float32")}])
def test_a_server_that_is_gone_and_comes_back_without_its_sessions(server: Server, params: Any) -> None:
    client = noised.connect(server.target, patience=0.2)
    session = client.create_session(noised.prefix_sum(), params, noised.Gaussian(1.0), id="a")
    session.fetch()
    state = session.state()
    server.kill()
    with pytest.raises(ConnectionError):
        fetch_some(session)
    server.start()
    with pytest.raises(SessionNotFoundError):
        fetch_some(session)
    with pytest.raises(CannotResumeError, match="started again") as why:
        noised.resume(state, params)
    assert isinstance(why.value.__cause__, SessionNotFoundError)
    # The client itself is as good as ever.
    with client.create_session(noised.prefix_sum(), params, noised.Gaussian(1.0), id="a") as again:
        again.fetch()


def test_a_step_outlives_a_connection_that_stands_still(server: Server) -> None:
    client = noised.connect(server.target, patience=30)
    with client.create_session(noised.prefix_sum(), PARAMS) as session:
        session.multiply_next(ONES)
        server.pause()
        threading.Timer(1.0, server.proceed).start()
        np.testing.assert_array_equal(session.multiply_next(ONES)["w"], np.full(LANES, 2, np.float32))


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(f"it ended without {line!r}")


@pytest.mark.parametrize("call", ["session.multiply_next(x)", "session.fetch()"])
def test_a_ctrl_c_is_heard_in_the_middle_of_a_step(server: Server, call: str) -> None:
    code = f"""
        import sys, threading, numpy as np, noised
        client = noised.connect(sys.argv[1])
        x = np.ones({LANES}, np.float32)
        source = noised.Gaussian(1.0) if "fetch" in {call!r} else noised.Input()
        session = client.create_session(noised.prefix_sum(), x, source)
        taken = [{call}, {call}]
        print("standing", flush=True)
        sys.stdin.readline()
        try:
            for _ in range(2):
                taken.append({call})
        except KeyboardInterrupt:
            assert session.step == len(taken)
            print("heard", flush=True)
            sys.stdin.readline()
            for _ in range(3):
                taken.append({call})
            if session.source == "gaussian":
                session.rewind(0)
                expected = [session.fetch() for _ in taken]
            else:
                expected = [(t + 1) * x for t in range(len(taken))]
            assert all((a == b).all() for a, b in zip(taken, expected, strict=True))
            session.delete()
            print("usable", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), server.target]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    wait_for(process, "standing")
    server.pause()
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    wait_for(process, "heard")
    server.proceed()
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for(process, "usable")
    assert process.wait(timeout=60) == 0


def test_a_program_ends_while_a_step_is_fetched_ahead(server: Server) -> None:
    process = run_python(
        f"""
        import sys, os, numpy as np, noised
        client = noised.connect(sys.argv[1])
        session = client.create_session(noised.prefix_sum(), np.ones({LANES}, np.float32), noised.Gaussian(1.0))
        session.fetch()
        os.kill(int(sys.argv[2]), {int(signal.SIGSTOP)})
        """,
        server.target,
        str(server._process.pid if server._process else 0),
    )
    try:
        assert process.wait(timeout=30) == 0, process.stdout.read() if process.stdout else ""
    finally:
        server.proceed()


def in_child(call: Callable[[], object]) -> str:
    """What a call raises in the child of a fork."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            call()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    return said


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_child_of_a_fork_gets_no_noise_of_its_parent(client: noised.Client) -> None:
    ones = np.ones(3, np.float32)
    local = noised.connect("local:")
    with (
        client.create_session(noised.prefix_sum(), ones) as session,
        client.create_session(noised.prefix_sum(), ones, noised.Gaussian(1.0)) as ahead,
        local.create_session(noised.prefix_sum(), ones, noised.Gaussian(1.0)) as here,
    ):
        ahead.fetch()
        here.fetch()
        state = here.state()
        calls: list[Callable[[], object]] = [
            lambda: session.multiply_next(ones),
            ahead.fetch,
            ahead.close,
            here.fetch,
            client.list_sessions,
            lambda: noised.resume(state, ones),
            lambda: noised.prefix_sum().materialize(3),
            lambda: local.create_session(noised.prefix_sum(), ones),
        ]
        for call in calls:
            assert in_child(call).startswith("ForkedError"), in_child(call)

        def anew() -> None:
            again = noised.connect(client.targets[0])
            with again.create_session(noised.prefix_sum(), ones) as of_child:
                of_child.multiply_next(ones)

        assert in_child(anew) == "nothing"
        np.testing.assert_array_equal(session.multiply_next(ones), ones)
        ahead.fetch()
        here.delete()


def test_a_handler_of_a_signal_gets_no_step(server: Server) -> None:
    client = noised.connect(server.target)
    with client.create_session(noised.prefix_sum(), PARAMS, noised.Gaussian(1.0)) as session:
        session.fetch()
        server.pause()
        said: list[BaseException] = []

        def handler(*_: object) -> None:
            try:
                session.fetch()
            except RuntimeError as error:
                said.append(error)

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
            threading.Timer(1.0, server.proceed).start()
            taken = [session.fetch()["w"], session.fetch()["w"]]
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert [type(error) for error in said] == [noised.errors.ReentrantCallError]
        session.rewind(1)
        for noise in taken:
            np.testing.assert_array_equal(session.fetch()["w"], noise)


def test_a_handle_is_stopped_at_once_where_the_server_stands_still(server: Server) -> None:
    client = noised.connect(server.target, patience=0.5)
    session = client.create_session(noised.prefix_sum(), PARAMS, noised.Gaussian(1.0))
    ahead = session._ahead
    assert ahead is not None
    for step in range(3):
        session.fetch()
        assert ahead.take(step + 1) is not None
        server.pause()
        ahead.begin(step + 1)
        stopped = threading.Thread(target=ahead.stop)
        stopped.start()
        stopped.join(timeout=10)
        is_stopped = not stopped.is_alive()
        server.proceed()
        assert is_stopped


def test_answers_that_nobody_reads_are_in_nobodys_way(client: noised.Client) -> None:
    params = noised.ShapeDtype((400_000,), "float32")
    for i in range(400):
        # Closed while the next step is on its way, over the one connection that there is.
        with client.create_session(noised.identity(), params, noised.Gaussian(1.0)) as session:
            for _ in range(1 + i % 3):
                session.fetch()


def test_a_search_that_is_interrupted_lets_the_program_end() -> None:
    process = run_python(
        """
        import noised, os, signal, threading, time
        def slow(what, iteration, loss):
            time.sleep(0.01)
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            noised.recommend(20000, max_planes=64, client=noised.connect("local:"), on_progress=slow)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    said = process.communicate(timeout=60)[0]
    assert said.strip() == "interrupted", said
    assert process.returncode == 0


def test_threads_take_turns(client: noised.Client) -> None:
    source = noised.Gaussian(1.0, noise_key=bytes(range(32)))
    params = noised.ShapeDtype((5000,), "float32")
    with client.create_session(noised.prefix_sum(), params, source) as session:
        alone = [session.fetch() for _ in range(40)]
    found: list[bytes] = []
    with client.create_session(noised.prefix_sum(), params, source) as session:

        def work() -> None:
            for _ in range(10):
                found.append(session.fetch().tobytes())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session.step == 40
    assert sorted(found) == sorted(expected.tobytes() for expected in alone)


@pytest.mark.parametrize("source", [noised.Gaussian(1.0), noised.Privatize(1.0)])
def test_a_killed_training_goes_on_from_its_checkpoint(server: Server, tmp_path: Path, source: Any) -> None:
    code = f"""
        import sys, os, numpy as np, noised
        target, directory = sys.argv[1:]
        checkpoint, name = directory + "/checkpoint.npz", "training"
        params = np.zeros(2000, np.float32)
        start = 0
        blt = noised.BufferedToeplitz.build([0.9, 0.5], [0.1, 0.2]).inverse_as_streaming_matrix()
        if os.path.exists(checkpoint):
            found = np.load(checkpoint)
            params, start = found["params"], int(found["step"])
            session = noised.resume(found["state"].tobytes(), params)
        else:
            session = noised.connect(target).create_session(blt, params, noised.{source!r}, id=name)
        for step in range(start, 12):
            if step % 4 == 0:
                state = np.frombuffer(session.state(), np.uint8)
                np.savez(directory + "/new.npz", params=params, step=step, state=state)
                os.replace(directory + "/new.npz", checkpoint)
            if step == 10 and start == 0:
                print("killed here", flush=True)
                os.kill(os.getpid(), 9)
            gradient = np.sin(params + step).astype(np.float32)
            if session.source == "gaussian":
                noisy = gradient + session.fetch(step=step)
            else:
                noisy = session.privatize(gradient, step=step)
            params = params - np.float32(0.1) * noisy
        np.save(directory + "/params.npy", params)
        print("done", start, session.info()[0]["rewind_count"], flush=True)
    """
    first = run_python(code, server.target, str(tmp_path))
    assert first.wait(timeout=60) == -signal.SIGKILL
    second = run_python(code, server.target, str(tmp_path))
    said = second.communicate(timeout=60)[0]
    assert said.startswith("done 8 "), said
    # The same noise, drawn once more, and the same training without a fault.
    noise_session = noised.connect(server.target).open_session("training", np.zeros(2000, np.float32))
    noise_session.rewind(0, allow_divergence=True)
    params = np.zeros(2000, np.float32)
    for step in range(12):
        gradient = np.sin(params + step).astype(np.float32)
        noisy = (
            gradient + noise_session.fetch()
            if noise_session.source == "gaussian"
            else noise_session.privatize(gradient)
        )
        params = params - np.float32(0.1) * noisy
    np.testing.assert_array_equal(np.load(tmp_path / "params.npy"), params)


def test_a_state_that_is_none_is_refused(client: noised.Client) -> None:
    for state in (b"", b"{}", b'{"noised":2}', b"[1]"):
        with pytest.raises(InvalidArgumentError, match=r"Session\.state"):
            noised.resume(state)
    with client.create_session(
        noised.prefix_sum(), np.ones(3, np.float32), id="test-state-of-another"
    ) as session:
        state = session.state()
        session.delete()
    with client.create_session(
        noised.identity(), np.ones(3, np.float32), id="test-state-of-another"
    ) as session:
        with pytest.raises(CannotResumeError, match="something else"):
            noised.resume(state, np.ones(3, np.float32))
        with pytest.raises(InvalidArgumentError, match="tree"):
            noised.resume(session.state(), np.ones(4, np.float32))
        session.delete()
