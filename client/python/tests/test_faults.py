"""What goes wrong on the way: servers that are away, killed, started again or stand still; a Ctrl-C; a fork."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server
from proxy import Proxy

import noised
from noised.errors import (
    CannotResumeError,
    InvalidArgumentError,
    NoisedError,
    SessionNotFoundError,
    TakenByAnotherError,
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


def test_a_session_that_its_server_lost_is_not_begun_anew(server: Server) -> None:
    client = noised.connect(server.target, patience=0.2)
    for source in (noised.Gaussian(1.0), noised.Privatize(1.0), noised.Input()):
        session = client.create_session(noised.identity(), PARAMS, source, id="lost", fetch_ahead=False)
        call: Callable[[], object] = session.fetch
        if session.source != "gaussian":
            call = partial(session.multiply_next, ONES)
        call()
        server.kill()
        with pytest.raises(ConnectionError) as away:
            call()
        assert "nothing is lost" not in str(away.value)
        server.start()
        for _ in range(2):
            with pytest.raises(SessionNotFoundError, match=r"noised\.resume"):
                client.create_session(noised.identity(), PARAMS, source, id="lost", resume=True)
        with pytest.raises(SessionNotFoundError):
            call()
        # Who wants a new one says so.
        with client.create_session(noised.identity(), PARAMS, source, id="lost") as again:
            assert not again.resumed
            again.delete()
    with pytest.raises(InvalidArgumentError, match="id: must name"):
        client.create_session(noised.identity(), PARAMS, resume=True)


@pytest.mark.parametrize("how", ["kill", "delete", "kill, and again"])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("fetch_ahead", [False, True])
def test_noise_goes_on_after_its_session_is_gone(
    tmp_path: Path, how: str, shards: int, fetch_ahead: bool
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    servers = [
        Server(tmp_path / name, "127.0.0.1:0", "--noise-ledger", str(tmp_path / name / "ledger"))
        for name in ("a", "b")[:shards]
    ]
    params = {"w": np.zeros((40, 50), np.float32), "b": np.zeros(7, np.float32)}
    matrix = noised.BufferedToeplitz.build([0.9, 0.5], [0.1, 0.2]).inverse_as_streaming_matrix()
    source = noised.Gaussian(0.3, noise_id="run/1")
    try:
        client = noised.connect([server.target for server in servers])
        session = client.create_session(matrix, params, source, id="run", horizon=30, fetch_ahead=fetch_ahead)
        noises = [session.fetch() for _ in range(10)]
        state = session.state()
        noises += [session.fetch() for _ in range(3)]
        if how == "delete":
            session.delete()
        else:
            # The second server's shard outlives the first one's.
            servers[0].kill()
            servers[0].start()
        progress: list[tuple[int, int]] = []
        resumed = noised.resume(
            state, params, fetch_ahead=fetch_ahead, on_progress=lambda *told: progress.append(told)
        )
        assert (resumed.step, progress[-1][0] >= 10) == (10, True)
        for expected in noises[10:]:
            found = resumed.fetch()
            assert all((found[name] == expected[name]).all() for name in params)
        later = resumed.state()
        thirteenth = resumed.fetch()
        if how == "kill, and again":
            servers[0].kill()
            servers[0].start()
            resumed = noised.resume(later, params, fetch_ahead=fetch_ahead)
            assert (resumed.fetch()["w"] == thirteenth["w"]).all()
        # Nobody else gets it: not as a new noise, not as that of another step, and not while it is drawn.
        with pytest.raises((noised.errors.NoiseInUseError, noised.errors.NoiseUsedError)):
            client.create_session(matrix, params, source, id="other", horizon=30)
        resumed.delete()
        with pytest.raises(noised.errors.NoiseUsedError):
            client.create_session(matrix, params, source, id="other", horizon=30)
        forged = json.loads(state)
        forged["step"] = 9
        with pytest.raises(InvalidArgumentError, match=r"resumed_noise\.token"):
            noised.resume(json.dumps(forged).encode(), params)
    finally:
        for server in servers:
            server.kill()


@pytest.mark.parametrize("source", [noised.Gaussian(1.0), noised.Privatize(1.0, noise_id="private")])
def test_noise_that_cannot_be_drawn_again_is_not_gone_on_with(server: Server, source: Any) -> None:
    client = noised.connect(server.target)
    session = client.create_session(noised.identity(), np.zeros(10, np.float32), source, id="gone")
    if session.source == "gaussian":
        session.fetch()
    else:
        session.privatize(np.zeros(10, np.float32))
    state = session.state()
    assert b"noise_id" not in state
    server.kill()
    server.start()
    with pytest.raises(CannotResumeError, match="gone"):
        noised.resume(state, np.zeros(10, np.float32))


def test_a_local_noise_goes_on_in_another_process() -> None:
    code = """
        import sys, numpy as np, noised
        client = noised.connect("local:", master_key=bytes(range(32)))
        params = np.zeros(100, np.float32)
        if sys.argv[1] == "first":
            source = noised.Gaussian(1.0, noise_id="here")
            session = client.create_session(noised.prefix_sum(), params, source, id="here")
            for _ in range(5):
                session.fetch()
            print(session.state().hex())
        else:
            session = noised.resume(bytes.fromhex(sys.argv[1]), params, client=client)
        print(session.step, session.fetch().tobytes().hex())
    """
    first = run_python(code, "first").communicate(timeout=60)[0].split("\n")
    second = run_python(code, first[0]).communicate(timeout=60)[0].split("\n")
    assert first[1].startswith("5 ")
    assert second[0] == first[1]


@pytest.mark.parametrize("fetch_ahead", [False, True])
@pytest.mark.parametrize("params", [PARAMS, {"w": noised.ShapeDtype((10,), "float32")}])
@pytest.mark.parametrize("place", ["server", "servers", "local"])
def test_two_trainers_on_one_session_do_not_get_one_noise(
    shared_server: Server, fetch_ahead: bool, params: Any, place: str
) -> None:
    target = {"server": shared_server.target, "servers": [shared_server.target] * 2, "local": "local:"}[place]
    clients = [noised.connect(target) for _ in range(2)]
    name = f"shared-{place}-{fetch_ahead}-{params['w'].shape[0]}"
    source = noised.Gaussian(1.0)
    one = clients[0].create_session(noised.identity(), params, source, id=name, fetch_ahead=fetch_ahead)
    two = clients[1].create_session(
        noised.identity(), params, source, id=name, resume=True, fetch_ahead=fetch_ahead
    )
    given: list[bytes] = []
    refused: list[int] = []
    for step in range(8):
        for session in (one, two):
            try:
                given.append(session.fetch(step)["w"].tobytes())
            except (TakenByAnotherError, noised.errors.WrongStepError) as error:
                refused.append(error.requested)
    assert len(set(given)) == len(given) > 0
    assert sorted(set(refused)) == list(range(8))
    # What the one fetches ahead would be taken from the other.
    one.close()
    two.refresh()
    two.fetch()
    two.delete()


def test_a_session_that_was_cut_on_its_way_is_made_once(server: Server) -> None:
    proxy = Proxy(server.target)
    client = noised.connect(proxy.target, patience=20)
    for i in range(6):
        # Cut at some moment of the call, and there again soon after.
        cut = threading.Timer(0.002 * i, proxy.cut)
        mend = threading.Timer(0.3, proxy.mend)
        cut.start()
        mend.start()
        session = client.create_session(noised.identity(), PARAMS, noised.Gaussian(1.0), id=f"cut-{i}")
        assert (session.step, session.resumed) == (0, False)
        cut.join()
        mend.join()
        session.fetch()
        session.delete()


def test_a_session_whose_creation_was_given_up_is_made_by_the_next_call(server: Server) -> None:
    proxy = Proxy(server.target)
    client = noised.connect(proxy.target, patience=0.3)
    server.pause()
    process_is_back = threading.Timer(3.0, server.proceed)
    process_is_back.start()
    cut = threading.Timer(0.2, proxy.cut)
    cut.start()
    with pytest.raises(ConnectionError):
        # The server gets the call, and does it once it proceeds: the answer finds nobody.
        client.create_session(noised.identity(), PARAMS, noised.Gaussian(1.0), id="given-up")
    process_is_back.join()
    proxy.mend()
    deadline = time.monotonic() + 30
    while True:
        try:
            session = client.create_session(noised.identity(), PARAMS, noised.Gaussian(1.0), id="given-up")
            break
        except ConnectionError:
            assert time.monotonic() < deadline
    assert (session.step, session.resumed) == (0, False)
    # Somebody else's call for that name is no repetition.
    with pytest.raises(noised.errors.SessionExistsError):
        noised.connect(server.target).create_session(
            noised.identity(), PARAMS, noised.Gaussian(1.0), id="given-up"
        )


def test_a_port_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnavailableError, match="nothing was said"):
            noised.connect(target, patience=1.0).list_sessions()


def test_a_rewind_that_breaks_off_leaves_the_handle_where_the_session_is(server: Server) -> None:
    proxy = Proxy(server.target)
    client = noised.connect(proxy.target)
    matrix = noised.BufferedToeplitz.build([0.9] * 1, [0.1] * 1).inverse_as_streaming_matrix()
    source = noised.Gaussian(1.0, noise_key=bytes(range(32)))
    with client.create_session(matrix, PARAMS, source, id="broken", fetch_ahead=False) as session:
        noises = [session.fetch()["w"] for _ in range(70)]

        def stop(done: int, total: int) -> None:
            raise ZeroDivisionError

        def cut(done: int, total: int) -> None:
            proxy.cut()
            proxy.mend()

        for on_progress, error in ((stop, ZeroDivisionError), (cut, ConnectionError)):
            with pytest.raises(error):
                session.rewind(69 if session.step < 60 else 60, on_progress=on_progress)
            assert session.step == client.get_session("broken")["next_step"] < 70
            np.testing.assert_array_equal(session.fetch()["w"], noises[session.step - 1])
        session.delete()


@pytest.mark.parametrize("call", ["session.multiply_next(x)", "session.fetch()"])
def test_a_ctrl_c_is_heard_in_the_middle_of_a_local_step(call: str) -> None:
    code = f"""
        import os, signal, threading, time, numpy as np, noised
        x = np.ones(4_000_000, np.float32)
        source = noised.Gaussian(1.0) if "fetch" in {call!r} else noised.Input()
        matrix = noised.toeplitz.matrix([1.0] + [0.01] * 200)
        session = noised.connect("local:").create_session(
            matrix, x, source, fetch_ahead=False, lookahead=None if source == noised.Input() else 8
        )
        heard = []
        class Heard(Exception):
            pass
        def handler(*_):
            heard.append(session.step)
            raise Heard
        signal.signal(signal.SIGUSR1, handler)
        threading.Timer(0.15, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        taken = 0
        try:
            while True:
                {call}
                taken += 1
        except Heard:
            pass
        assert heard == [taken] and session.step == taken, (heard, taken, session.step)
        {call}
        assert session.step == taken + 1
        print("usable", flush=True)
    """
    process = run_python(code)
    said = process.communicate(timeout=300)[0]
    assert said.strip() == "usable", said
