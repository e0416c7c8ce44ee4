"""The package as such: what it is called, what it needs, how its objects look, and what can be sent to another process."""

from __future__ import annotations

import ast
import copy
import logging
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import time
import typing
from dataclasses import replace
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server
from proxy import Proxy

import noised
import noised.aio
from noised.__main__ import main
from noised.errors import CannotPickleError, MissingPackageError, NoisedError

ROOT = Path(__file__).parents[3]
TREE = {"w": np.zeros(3, np.float32)}


def run(script: str, *arguments: str, stdin: bytes = b"", **environment: str) -> str:
    """Runs a script in another process, and gives what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        input=stdin,
        capture_output=True,
        env=os.environ | environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_it_tells_its_version(shared_server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert noised.__version__ == version("noised")
    assert main([shared_server.target]) == 0
    said = capsys.readouterr().out
    assert f"noised {noised.__version__} (Python" in said
    assert f"noised[torch]: torch {version('torch')}" in said
    assert f"{shared_server.target}: answers, and holds" in said
    assert main(["127.0.0.1:1", "--patience", "0.1"]) == 1
    assert "127.0.0.1:1: " in capsys.readouterr().out
    as_module = subprocess.run(
        [sys.executable, "-m", "noised", "--version"], capture_output=True, text=True, check=True
    )
    assert as_module.stdout == f"noised {noised.__version__}\n"


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("noised.jax", "jax", "jax"),
        ("noised.jax", "optax", "jax"),
        ("noised.torch", "torch", "torch"),
    ],
)
def test_a_package_that_is_missing_is_named_with_what_installs_it(
    module: str, package: str, extra: str
) -> None:
    script = """
    import importlib, sys
    module, package = sys.argv[1:]
    sys.modules[package] = None  # As if it were not installed.
    try:
        importlib.import_module(module)
    except ImportError as error:
        import noised
        assert isinstance(error, noised.NoisedError) and error.name == package
        print(error)
    """
    said = run(script, module, package)
    assert (
        said
        == f"{module} needs the package {package}, which is not installed: pip install 'noised[{extra}]'\n"
    )


def test_opacus_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import noised.torch  # noqa: PLC0415

    monkeypatch.setitem(sys.modules, "opacus.optimizers", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'noised\[opacus\]'"):
        noised.torch.replace_opacus_noise(object(), noised.prefix_sum())


def test_the_examples_need_what_their_part_installs() -> None:
    folder = ROOT / "examples/python"
    own = {path.stem for path in folder.glob("*.py")}
    imported = {
        name.partition(".")[0]
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    needed = imported - own - sys.stdlib_module_names - {"noised"}
    assert {"torch", "jax"} <= needed
    listed = [
        line for line in requires("noised") or [] if "extra" not in line or re.search(r"\Wexamples\W", line)
    ]
    installed = {re.split(r"[<>=; ]", line)[0] for line in listed}
    assert {{"sklearn": "scikit-learn"}.get(name, name) for name in needed} <= installed


class TestStubs:
    """What somebody makes from the protocol lies beside the package, and neither hides the other."""

    @pytest.fixture(scope="class")
    def stubs(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        made = tmp_path_factory.mktemp("stubs")
        protos = ROOT / "proto/proto"
        files = [str(path) for path in protos.glob("noised/v1/*.proto")]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}"]
        subprocess.run([*command, f"--python_out={made}", f"--grpc_python_out={made}", *files], check=True)
        assert (made / "noised/v1/sessions_pb2.py").exists()
        return made

    SPEAK = """
    import grpc
    from noised.v1 import sessions_pb2, sessions_pb2_grpc
    import noised, noised.toeplitz
    client = noised.connect(sys.argv[1])
    with client.create_session(noised.prefix_sum(), noised.ShapeDtype((3,), "float32")) as session:
        with grpc.insecure_channel(sys.argv[1]) as channel:
            stub = sessions_pb2_grpc.SessionsStub(channel)
            found = stub.GetSession(sessions_pb2.GetSessionRequest(name=session.name))
        assert found.name == session.name, found
    print(found.next_step)
    """

    @pytest.mark.parametrize("first", ["import noised", "import noised.v1.matrix_pb2", "pass"])
    def test_on_the_path(self, stubs: Path, shared_server: Server, first: str) -> None:
        script = f"import sys\n{first}\n" + textwrap.dedent(self.SPEAK)
        assert run(script, shared_server.target, PYTHONPATH=str(stubs)) == "0\n"

    @pytest.mark.parametrize("where", ["sys.path.append(sys.argv[2])", "sys.path.insert(0, sys.argv[2])"])
    def test_that_comes_later(self, stubs: Path, shared_server: Server, where: str) -> None:
        script = f"import sys, noised, noised.design\n{where}\n" + textwrap.dedent(self.SPEAK)
        assert run(script, shared_server.target, str(stubs)) == "0\n"

    def test_in_the_working_directory(
        self, stubs: Path, shared_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(stubs)
        assert run("import sys\n" + textwrap.dedent(self.SPEAK), shared_server.target) == "0\n"

    def test_other_folders_of_the_name_are_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "noised").mkdir()
        (tmp_path / "noised/notes.py").write_text("raise AssertionError('not of this package')")
        script = """
        import noised
        try:
            import noised.notes
        except ModuleNotFoundError:
            print("none")
        """
        assert run(script, PYTHONPATH=str(tmp_path)) == "none\n"

    def test_entries_that_cannot_be_looked_into_are_nothing(self, stubs: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        # The rights of a folder are nothing to root; a name that is too long is refused to everybody.
        closed = tmp_path / "closed"
        closed.mkdir(mode=0)
        script = """
        import sys, noised, google.protobuf.json_format
        odd = [sys.argv[1] + "/" + name for name in ("file", "loop", "closed", "none", "x" * 300)]
        sys.path[:0] = [*odd, b"bytes", None, 7, ["list"]]
        sys.path.append(sys.argv[2])
        import noised.toeplitz, noised.v1.sessions_pb2
        try:
            import noised.notes
        except ModuleNotFoundError:
            print("none")
        """
        try:
            assert run(script, str(tmp_path), str(stubs)) == "none\n"
        finally:
            closed.chmod(0o700)


class TestPickle:
    """What goes to another process, and what says why it does not."""

    def test_a_client_connects_there(self, shared_server: Server) -> None:
        client = noised.connect(shared_server.target, patience=7.5)
        with client.create_session(noised.prefix_sum(), TREE, id="pickled") as session:
            script = """
            import pickle, sys
            client = pickle.load(sys.stdin.buffer)
            print(client.get_session("pickled").next_step, client._patience, client.targets)
            """
            said = run(script, stdin=pickle.dumps(client))
            assert said == f"0 7.5 {client.targets}\n"
            again = copy.copy(client)
            assert again.get_session(session.name).name == session.name
            session.delete()

    def test_several_targets_and_asyncio(self, shared_server: Server) -> None:
        client = noised.connect([shared_server.target, shared_server.target])
        assert pickle.loads(pickle.dumps(client)).targets == client.targets
        wrapped = noised.aio.AsyncClient(client)
        assert pickle.loads(pickle.dumps(wrapped)).blocking.targets == client.targets

    def test_local_is_the_other_process(self) -> None:
        client = noised.connect()
        assert pickle.loads(pickle.dumps(client)).is_local
        keyed = noised.connect(master_key=bytes(32))
        with pytest.raises(CannotPickleError, match="the key would be in the pickle"):
            pickle.dumps(keyed)

    def test_what_holds_a_session_says_why_not(self) -> None:
        import torch  # noqa: PLC0415

        import noised.jax  # noqa: PLC0415
        import noised.torch  # noqa: PLC0415

        model = torch.nn.Linear(2, 2)
        with noised.connect().create_session(noised.prefix_sum(), TREE, noised.Gaussian(1.0)) as session:
            cases: list[tuple[Any, str]] = [
                (session, r"a Session cannot be pickled or copied.*session\.state\(\)"),
                (noised.aio.AsyncSession(session), r"an? AsyncSession cannot.*session\.state\(\)"),
                (
                    noised.torch.Privatizer(model, noised.prefix_sum(), 1.0),
                    r"Privatizer cannot.*state_dict\(\)",
                ),
                (
                    noised.jax.privatizer(noised.prefix_sum(), stddev=1.0),
                    r"Privatizer cannot.*state_bytes\(\)",
                ),
            ]
            for held, why in cases:
                for send in (pickle.dumps, copy.copy, copy.deepcopy):
                    with pytest.raises(CannotPickleError, match=why) as raised:
                        send(held)
                    assert isinstance(raised.value, NoisedError)
                    assert isinstance(raised.value, TypeError)
            assert session.fetch()["w"].shape == (3,)

    def test_descriptions_go(self) -> None:
        design = noised.optimize("buffered_toeplitz", 16, buffers=1)
        for described in (
            design,
            noised.recommend(8, max_planes=1),
            noised.calibrate(1.0, rho=1.0),
            noised.prefix_sum(),
            noised.Participation(min_sep=3),
            noised.Privatize(1.0, noise_id="a"),
            noised.Shard(0, 2),
            noised.Tls("ca.pem", server_name="noised"),
        ):
            assert pickle.loads(pickle.dumps(described)) == described
            assert copy.deepcopy(described) == described


def test_objects_are_written_in_a_line() -> None:
    matrix = noised.dense(np.tril(np.ones((50, 50))))
    assert repr(matrix) == "<noised.StreamingMatrix dense(50 rows)>"
    product = noised.prefix_sum() @ noised.toeplitz.inverse([1.0, 0.5]) * 2.0
    assert repr(product) == "<noised.StreamingMatrix scaled(prefix_sum @ inverse(toeplitz(2 bands)))>"
    design = noised.optimize("banded_toeplitz", 64, bands=16)
    recommendation = noised.recommend(64, max_planes=4)
    assert repr(design).startswith("<noised.Design toeplitz(16 bands): loss ")
    for described in (design, recommendation, noised.calibrate(1.0, rho=1.0), noised.connect(), product):
        assert len(repr(described)) < 600
        assert "\n" not in repr(described)
        assert "{" not in repr(described)
    tables = [
        each._repr_html_()
        for each in (design, recommendation, noised.calibrate(1.0, epsilon=1.0, delta=1e-6))
    ]
    for table in tables:
        assert table.startswith("<table><thead><tr><th>")
        assert table.count("<tr>") == table.count("</tr>") >= 2
    assert tables[1].count("<tr>") == 1 + len(recommendation.candidates)
    assert "<td>1e-06</td>" in tables[2]


def test_names_are_types() -> None:
    assert "buffered_toeplitz" in typing.get_args(noised.design.Family)
    assert noised.optimize.__annotations__["family"] == "Family"
    assert typing.get_args(noised.design.Objective) == ("mean", "max")
    assert noised.recommend.__annotations__["objective"] == "Objective"
    assert typing.get_args(typing.get_type_hints(noised.Shard)["cut"]) == ("lanes", "leaves")


def test_a_session_is_generic_in_its_tree() -> None:
    local = noised.connect()
    session: noised.Session[dict[str, np.ndarray[Any, Any]]] = local.create_session(
        noised.prefix_sum(), TREE, noised.Gaussian(1.0)
    )
    with session:
        noise = session.fetch()
        assert noise["w"].dtype == np.float32
        # mypy, which checks the tests, holds it to the type above.
        assert sorted(noise) == ["w"]


def test_a_session_is_told_of_by_names(anywhere: noised.Client) -> None:
    before = int(time.time())
    with anywhere.create_session(
        noised.prefix_sum(), TREE, noised.Gaussian(1.0), fetch_ahead=False
    ) as session:
        session.fetch()
        session.state()
        (info,) = session.info()
        assert isinstance(info, noised.SessionInfo)
        asked = anywhere.get_session(session.name)
        assert asked == replace(info, last_used_unix_seconds=asked.last_used_unix_seconds)
        assert (info.name, info.lanes, info.kept_steps) == (session.name, 3, [1])
        assert info["name"] == info.name
        assert dict(info)["step_bytes"] == info.step_bytes == 12
        assert before <= info.last_used_unix_seconds <= time.time() + 1
        assert [found.next_step for found in anywhere.list_sessions() if found.name == session.name] == [
            info.next_step
        ]
        with pytest.raises(KeyError):
            info["step"]
        with pytest.raises(AttributeError):
            info.name = "other"  # type: ignore[misc]
        session.rewind(0)
        assert session.info()[0].rewinds[-1].to_step == 0
        session.delete()


def test_what_is_tried_again_is_logged(shared_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "noised")
    network = Proxy(shared_server.target)
    client = noised.connect(network.target, patience=60.0)
    with client.create_session(noised.prefix_sum(), TREE, noised.Gaussian(1.0), fetch_ahead=False) as session:
        session.fetch()
        assert caplog.records == []
        network.cut()
        timer = threading.Timer(0.5, network.mend)
        timer.start()
        session.fetch()
        timer.join()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings
    assert all(record.name == "noised" for record in caplog.records)
    assert re.match(r"attempt 1 has failed, the next is in .*: ", warnings[0].getMessage())
    goes_on = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert any(re.match(r"goes on after \d+ failed attempts, ", message) for message in goes_on)


def test_a_server_that_is_waited_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "noised")
    with pytest.raises(noised.errors.UnavailableError):
        noised.connect("127.0.0.1:1", patience=0.3)
    assert any("attempt 2 has failed" in record.getMessage() for record in caplog.records)


def test_what_a_handler_of_records_raises_ends_the_wait_like_a_signal() -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyboardInterrupt

    handler = Handler()
    logging.getLogger("noised").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            noised.connect("127.0.0.1:1", patience=30.0)
    finally:
        logging.getLogger("noised").removeHandler(handler)


def test_nobody_who_did_not_ask_hears_of_it() -> None:
    script = """
    import noised
    try:
        noised.connect("127.0.0.1:1", patience=0.3)
    except noised.errors.UnavailableError:
        print("away")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("away\n", "")
