"""The adapter for JAX, against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from conftest import Server
from numpy.typing import NDArray

import noised

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import noised.jax  # noqa: E402

SourceName = Literal["gaussian", "privatize"]
KEY = bytes(range(32))
MATRIX = noised.BufferedToeplitz.build([0.9, 0.5], [0.2, 0.1]).inverse_as_streaming_matrix()
#: A leaf that goes to the host in two groups of pieces, which overlap; one that goes whole; and a scalar.
PARAMS: dict[str, Any] = {"w": jnp.zeros((700, 800)), "layers": [{"b": jnp.zeros(7)}, {"b": jnp.zeros(())}]}
SOURCES: list[SourceName] = ["gaussian", "privatize"]


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> SourceName:
    """Where the noise is added."""
    chosen: SourceName = request.param
    return chosen


def gradients(step: int, params: Any = PARAMS) -> Any:
    """Gradients that differ from step to step, and from lane to lane."""

    def of(leaf: Any) -> Any:
        return (jnp.arange(leaf.size).reshape(leaf.shape) % 13 - 6 + step).astype(leaf.dtype)

    return jax.tree.map(of, params)


def same_bits(left: Any, right: Any) -> bool:
    """Whether two trees are the same, to the bit."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def run(privatizer: noised.jax.Privatizer, steps: int, update: Callable[..., Any] | None = None) -> list[Any]:
    """The noisy gradients of the first steps."""
    state = privatizer.init(PARAMS)
    noisy = []
    for step in range(steps):
        answer, state = (update or privatizer.update)(gradients(step), state)
        noisy.append(answer)
    assert int(state.step) == steps
    return noisy


def test_noise_is_that_of_a_session(client: noised.Client, source: SourceName) -> None:
    with client.create_session(MATRIX, PARAMS, noised.Gaussian(2.0, noise_key=KEY)) as session:
        expected = [jax.tree.map(jnp.add, gradients(step), session.fetch()) for step in range(4)]
    options: dict[str, Any] = {"stddev": 2.0, "client": client, "source": source, "noise_key": KEY}
    with noised.jax.privatizer(MATRIX, **options) as privatizer:
        assert same_bits(run(privatizer, 4), expected)
    with noised.jax.privatizer(MATRIX, **options) as privatizer:
        assert same_bits(run(privatizer, 4, jax.jit(privatizer.update)), expected)


def test_noise_is_the_matrix_times_independent_noise(client: noised.Client) -> None:
    options: dict[str, Any] = {"stddev": 1.0, "client": client, "noise_key": KEY}
    with noised.jax.privatizer(MATRIX, **options) as privatizer:
        correlated = _noise(run(privatizer, 5))
    with noised.jax.gaussian_privatizer(**options) as privatizer:
        independent = _noise(run(privatizer, 5))
    np.testing.assert_allclose(correlated, MATRIX.materialize(5) @ independent, atol=2e-5)
    # Their sum over the steps is what the model takes.
    sums = np.tril(np.ones((5, 5))) @ MATRIX.materialize(5) @ independent
    np.testing.assert_allclose(np.cumsum(correlated, axis=0), sums, atol=1e-4)
    assert not np.allclose(correlated[1], independent[1], atol=1e-2)


def _noise(noisy: list[Any]) -> NDArray[np.float64]:
    steps = []
    for step, tree in enumerate(noisy):
        noise = jax.tree.map(lambda x, g: np.asarray(x, np.float64) - np.asarray(g), tree, gradients(step))
        steps.append(np.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(noise)]))
    return np.stack(steps)


def test_one_large_draw_is_normal(client: noised.Client) -> None:
    params = jnp.zeros(1 << 20)
    with noised.jax.gaussian_privatizer(stddev=3.0, client=client) as privatizer:
        noisy, _ = jax.jit(privatizer.update)(params, privatizer.init(params))
    values = np.asarray(noisy, np.float64) / 3
    count = values.size
    assert abs(values.mean()) < 6 / np.sqrt(count)
    assert abs(values.var() - 1) < 6 * np.sqrt(2 / count)
    assert abs((np.abs(values) > 2).mean() - 0.0455) < 6 * np.sqrt(0.0455 / count)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 6 / np.sqrt(count)


def test_it_chains(client: noised.Client) -> None:
    options: dict[str, Any] = {"stddev": 1.0, "client": client, "noise_key": KEY}
    with noised.jax.privatizer(MATRIX, **options) as privatizer:
        noisy = run(privatizer, 3)
    expected = jax.tree.map(lambda leaf, *g: leaf - sum(0.5 * x for x in g), PARAMS, *noisy)
    with noised.jax.privatizer(MATRIX, **options) as privatizer:
        optimizer = optax.chain(privatizer, optax.sgd(0.5))
        params, state = PARAMS, optimizer.init(PARAMS)

        def train(params: Any, state: Any, step: int) -> Any:
            updates, state = optimizer.update(gradients(step), state, params)
            return optax.apply_updates(params, updates), state

        for step in range(3):
            params, state = jax.jit(train)(params, state, step)
        # What a checkpoint holds: arrays, and nothing else.
        assert [type(leaf) for leaf in jax.tree.leaves(state)] == [type(jnp.zeros(1))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), params, expected)


def test_steps_of_a_loop_are_in_order(client: noised.Client, source: SourceName) -> None:
    options: dict[str, Any] = {"stddev": 1.0, "client": client, "source": source, "noise_key": KEY}
    with noised.jax.privatizer(MATRIX, **options) as privatizer:
        expected = run(privatizer, 4)
    with noised.jax.privatizer(MATRIX, **options) as privatizer:

        def train(state: Any) -> Any:
            def body(state: Any, step: Any) -> Any:
                noisy, state = privatizer.update(gradients(step), state)
                return state, noisy

            return jax.lax.scan(body, state, jnp.arange(4))

        state, noisy = jax.jit(train)(privatizer.init(PARAMS))
    assert int(state.step) == 4
    assert same_bits(noisy, jax.tree.map(lambda *steps: jnp.stack(steps), *expected))


@pytest.mark.parametrize("jit", [False, True])
def test_the_step_before_is_answered_again(client: noised.Client, source: SourceName, jit: bool) -> None:
    with noised.jax.privatizer(MATRIX, stddev=1.0, client=client, source=source) as privatizer:
        update = jax.jit(privatizer.update) if jit else privatizer.update
        _, second = update(gradients(0), privatizer.init(PARAMS))
        noisy, third = update(gradients(1), second)
        again, _ = update(gradients(1), second)
        assert same_bits(noisy, again)
        following, _ = update(gradients(1), third)
        assert not same_bits(noisy, following)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("step", [0, 7])
def test_a_wrong_step_is_refused(client: noised.Client, source: SourceName, jit: bool, step: int) -> None:
    with noised.jax.privatizer(MATRIX, stddev=1.0, client=client, source=source) as privatizer:
        update = jax.jit(privatizer.update) if jit else privatizer.update
        state = privatizer.init(PARAMS)
        for before in range(3):
            _, state = update(gradients(before), state)
        wrong = noised.jax.PrivatizerState(jnp.asarray(step, jnp.int32))
        with pytest.raises(noised.errors.WrongStepError) as caught, privatizer.errors():
            jax.block_until_ready(update(gradients(0), wrong))
        assert (caught.value.requested, caught.value.expected) == (step, 3)
        if jit:
            assert isinstance(caught.value.__cause__, jax.errors.JaxRuntimeError)
        _, state = update(gradients(3), state)
        assert int(state.step) == 4


def test_without_a_block_the_text_and_the_error_are_there(client: noised.Client) -> None:
    with noised.jax.privatizer(MATRIX, stddev=1.0, client=client, horizon=1) as privatizer:
        update = jax.jit(privatizer.update)
        _, state = update(gradients(0), privatizer.init(PARAMS))
        with pytest.raises(jax.errors.JaxRuntimeError, match="PastHorizonError: step 1"):
            jax.block_until_ready(update(gradients(1), state))
        assert isinstance(privatizer.error, noised.errors.PastHorizonError)


def test_a_privatizer_raises_at_the_end_of_its_block(client: noised.Client) -> None:
    with (  # noqa: PT012  What is told at the end of the inner block is what is tested.
        pytest.raises(noised.errors.PastHorizonError),
        noised.jax.privatizer(MATRIX, stddev=1.0, client=client, horizon=1) as privatizer,
    ):
        update = jax.jit(privatizer.update)
        _, state = update(gradients(0), privatizer.init(PARAMS))
        jax.block_until_ready(update(gradients(1), state))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("jit", [False, True])
def test_formats(client: noised.Client, source: SourceName, dtype: str, jit: bool) -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    with client.create_session(
        MATRIX, params, noised.Privatize(1.0, noise_key=KEY, answer_dtype="float32")
    ) as session:
        exact = session.privatize(gradients(2, params))
    options: dict[str, Any] = {"stddev": 1.0, "client": client, "source": source, "noise_key": KEY}
    # Noise in float32 is added in float32 and rounded once.
    with noised.jax.privatizer(MATRIX, dtype="float32", **options) as privatizer:
        update = jax.jit(privatizer.update) if jit else privatizer.update
        noisy, _ = update(gradients(2, params), privatizer.init(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(noisy)} == {jnp.dtype(dtype)}
    assert same_bits(noisy, jax.tree.map(lambda leaf: leaf.astype(dtype), exact))
    # Noise in the gradients' own format differs by roundings.
    with noised.jax.privatizer(MATRIX, **options) as privatizer:
        update = jax.jit(privatizer.update) if jit else privatizer.update
        noisy, _ = update(gradients(2, params), privatizer.init(params))
    assert {leaf.dtype for leaf in jax.tree.leaves(noisy)} == {jnp.dtype(dtype)}
    error = 3 * float(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b), rtol=error, atol=8 * error
        ),
        noisy,
        exact,
    )


@pytest.mark.parametrize("noise", [None, "float32"])
@pytest.mark.parametrize(
    "too_large", [("float16", 4400.0, "f16"), ("bfloat16", 2.25e37, "bf16")], ids=["f16", "bf16"]
)
@pytest.mark.parametrize("begun_by", ["init", "jitted init", "shapes", "update"])
def test_it_is_the_gradients_that_must_have_the_range(
    client: noised.Client, source: SourceName, noise: Any, too_large: tuple[str, float, str], begun_by: str
) -> None:
    dtype, stddev, name = too_large
    params = {"w": jnp.zeros(9, dtype), "b": jnp.zeros(3)}
    before = len(client.list_sessions())
    options: dict[str, Any] = {"client": client, "source": source, "dtype": noise}

    def begin(privatizer: noised.jax.Privatizer) -> Any:
        if begun_by == "shapes":
            jax.eval_shape(privatizer.init, params)
        elif begun_by != "update":
            (jax.jit(privatizer.init) if begun_by == "jitted init" else privatizer.init)(params)
        state = noised.jax.PrivatizerState(jnp.asarray(0, jnp.int32))
        return privatizer.update(params, state)[0]

    refused = pytest.raises(
        noised.errors.InvalidArgumentError, match=rf"source\.stddev: must be at most .* for answers in {name}"
    )
    privatizer = noised.jax.gaussian_privatizer(stddev=stddev, **options)
    with refused, privatizer.errors():
        begin(privatizer)
    assert len(client.list_sessions()) == before
    with noised.jax.gaussian_privatizer(stddev=stddev * 0.97, **options) as privatizer:
        answer = begin(privatizer)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in answer.values())


def test_f64(client: noised.Client, source: SourceName) -> None:
    with pytest.raises(noised.errors.InvalidArgumentError, match="jax_enable_x64"):
        noised.jax.privatizer(MATRIX, stddev=1.0, client=client, dtype="float64")
    with jax.enable_x64(True):
        params: dict[str, Any] = {"w": np.linspace(0, 1, 1000)}
        options: dict[str, Any] = {"stddev": 1.0, "client": client, "source": source, "noise_key": KEY}
        answers = []
        for jit in (False, True):
            with noised.jax.privatizer(MATRIX, **options) as privatizer:
                update = jax.jit(privatizer.update) if jit else privatizer.update
                noisy, _ = update(jax.tree.map(jnp.asarray, params), privatizer.init(params))
                assert noisy["w"].dtype == jnp.float64
                answers.append(noisy)
        assert same_bits(*answers)
        # Noise that fits f64 alone does not fit gradients in f32.
        with (
            noised.jax.gaussian_privatizer(**{**options, "stddev": 1e38, "dtype": "float64"}) as privatizer,
            pytest.raises(noised.errors.InvalidArgumentError, match="for answers in f32"),
        ):
            privatizer.init({"w": jnp.zeros(3, jnp.float32)})
        # They are no f32 values that were widened.
        noise = np.asarray(answers[0]["w"], np.float64) - np.asarray(params["w"])
        assert (noise != noise.astype(np.float32)).mean() > 0.9


def test_gradients_must_be_as_the_parameters(client: noised.Client, source: SourceName) -> None:
    with noised.jax.privatizer(MATRIX, stddev=1.0, client=client, source=source) as privatizer:
        state = privatizer.init(PARAMS)
        for update in (privatizer.update, jax.jit(privatizer.update)):
            with pytest.raises(noised.errors.InvalidArgumentError, match="layers/0/b, layers/1/b missing"):
                update({"w": PARAMS["w"]}, state)
            with pytest.raises(noised.errors.InvalidArgumentError, match="extra not part of it"):
                update({**PARAMS, "extra": jnp.zeros(1)}, state)
            with pytest.raises(noised.errors.InvalidArgumentError, match=r"tree\.w: .*\(3,\)"):
                update({**PARAMS, "w": jnp.zeros(3)}, state)
            with pytest.raises(noised.errors.InvalidArgumentError, match=r"tree\.w: .*int32"):
                update({**PARAMS, "w": PARAMS["w"].astype(jnp.int32)}, state)
        with pytest.raises(noised.errors.InvalidArgumentError, match="missing"):
            privatizer.init({"w": PARAMS["w"]})
        # It is as good as before.
        privatizer.update(gradients(0), state)
    with pytest.raises(noised.errors.InvalidArgumentError, match=r"tree\.n: .*int32"):
        noised.jax.privatizer(MATRIX, stddev=1.0, client=client).init({"n": jnp.zeros(3, jnp.int32)})


def test_arguments(client: noised.Client) -> None:
    with pytest.raises(noised.errors.InvalidArgumentError, match="source"):
        noised.jax.privatizer(MATRIX, stddev=1.0, client=client, source="input")  # type: ignore[arg-type]
    with pytest.raises(noised.errors.InvalidArgumentError, match="resume_from"):
        noised.jax.privatizer(MATRIX, stddev=1.0, client=client, resume_from=b"{}", id="x")
    with pytest.raises(noised.errors.InvalidArgumentError, match="lower triangular"):
        noised.jax.privatizer(np.ones((2, 2)), stddev=1.0, client=client)
    with pytest.raises(noised.errors.InvalidArgumentError, match="init"):
        _ = noised.jax.privatizer(MATRIX, stddev=1.0, client=client).session


def test_an_array_is_a_matrix(client: noised.Client) -> None:
    options: dict[str, Any] = {"stddev": 1.0, "client": client, "noise_key": KEY}
    with noised.jax.privatizer(jnp.asarray(np.tril(np.ones((3, 3)))), **options) as privatizer:
        noise = _noise(run(privatizer, 3))
    with noised.jax.gaussian_privatizer(**options) as privatizer:
        independent = _noise(run(privatizer, 3))
    np.testing.assert_allclose(noise, np.cumsum(independent, axis=0), atol=1e-5)


def test_init_under_trace_makes_no_session_of_its_own(client: noised.Client) -> None:
    before = len(client.list_sessions())
    with noised.jax.privatizer(MATRIX, stddev=1.0, client=client) as privatizer:
        shapes = jax.eval_shape(privatizer.init, PARAMS)
        assert shapes.step.dtype == jnp.int32
        assert len(client.list_sessions()) == before
        state = jax.jit(privatizer.init)(PARAMS)
        jax.block_until_ready(privatizer.update(gradients(0), state))
        assert len(client.list_sessions()) == before + 1
    assert len(client.list_sessions()) == before


def test_a_run_resumes(client: noised.Client, source: SourceName) -> None:
    options: dict[str, Any] = {"stddev": 1.0, "source": source}
    first = noised.jax.privatizer(MATRIX, client=client, **options)
    update = jax.jit(first.update)
    state = first.init(PARAMS)
    for step in range(3):
        _, state = update(gradients(step), state)
    saved, checkpoint = first.state_bytes(), jax.tree.map(np.asarray, state)
    expected = []
    for step in range(3, 6):
        noisy, state = update(gradients(step), state)
        expected.append(noisy)
    first.close()
    # The state knows where the session is.
    with noised.jax.privatizer(MATRIX, resume_from=saved, **options) as second:
        assert int(second.init(PARAMS).step) == 3
        update, state = jax.jit(second.update), checkpoint
        for step in range(3, 6):
            noisy, state = update(gradients(step), state)
            assert same_bits(noisy, expected[step - 3])
    for other in ({"stddev": 2.0, "source": source}, {**options, "horizon": 9}):
        third = noised.jax.privatizer(MATRIX, resume_from=saved, **other)
        with pytest.raises(noised.errors.CannotResumeError, match="was made for something else"):
            third.init(PARAMS)
    client.delete_session(json.loads(saved)["names"][0])
    with pytest.raises(noised.errors.CannotResumeError, match="is not on"):
        noised.jax.privatizer(MATRIX, resume_from=saved, **options).init(PARAMS)


def test_shards_are_parts_of_the_whole(client: noised.Client, source: SourceName) -> None:
    options: dict[str, Any] = {"stddev": 1.0, "client": client, "source": source, "noise_key": KEY}
    flat = [
        jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(gradients(step))]) for step in range(2)
    ]
    with noised.jax.privatizer(MATRIX, **options) as privatizer:
        whole = [
            np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])
            for tree in run(privatizer, 2)
        ]
    for jit in (False, True):
        parts = []
        for index in range(2):
            with noised.jax.privatizer(MATRIX, shard=noised.Shard(index, 2), **options) as privatizer:
                update = jax.jit(privatizer.update) if jit else privatizer.update
                state = privatizer.init(PARAMS)
                lanes = privatizer.session.lanes
                for step in range(2):
                    noisy, state = update(flat[step][lanes.start : lanes.stop], state)
                with pytest.raises(noised.errors.InvalidArgumentError, match="one axis"):
                    update(gradients(0), state)
            parts.append(np.asarray(noisy))
        assert np.concatenate(parts).tobytes() == whole[1].tobytes()
    assert noised.jax.shard() == noised.Shard(0, 1)


def test_a_server_that_is_gone_is_an_error(server: Server, source: SourceName) -> None:
    client = noised.connect(server.target, patience=1.0)
    privatizer = noised.jax.privatizer(MATRIX, stddev=1.0, client=client, source=source, fetch_ahead=False)
    update = jax.jit(privatizer.update)
    _, state = update(gradients(0), privatizer.init(PARAMS))
    server.kill()
    with pytest.raises(noised.errors.UnavailableError), privatizer.errors():
        jax.block_until_ready(update(gradients(1), state))
    with pytest.raises(noised.errors.UnavailableError):
        privatizer.update(gradients(1), state)
    server.start()
    # The session was in the server's memory.
    with pytest.raises(noised.errors.SessionNotFoundError), privatizer.errors():
        jax.block_until_ready(update(gradients(1), state))
    with noised.jax.privatizer(MATRIX, stddev=1.0, client=client, source=source) as other:
        jax.block_until_ready(jax.jit(other.update)(gradients(0), other.init(PARAMS)))


def test_a_server_that_stands_still_delays_a_step(server: Server, source: SourceName) -> None:
    with noised.jax.privatizer(MATRIX, stddev=1.0, client=server.target, source=source) as privatizer:
        update = jax.jit(privatizer.update)
        _, state = update(gradients(0), privatizer.init(PARAMS))
        server.pause()
        threading.Timer(1.0, server.proceed).start()
        noisy, state = update(gradients(1), state)
        jax.block_until_ready(noisy)
        assert int(state.step) == 2


def test_two_loops_do_not_mix() -> None:
    staging = noised._jax._Staging()
    piece = np.ones(noised._jax._PIECE_BYTES // 4, np.float32)
    size = 2 * piece.size
    staging.put(0, 0, size, 0, [piece])
    with pytest.raises(noised.NoisedError, match="two updates"):
        staging.take(0, [0])
    staging.put(0, 0, size, 0, [piece])
    staging.put(0, 0, size, piece.size, [piece])
    with pytest.raises(noised.NoisedError, match="two updates"):
        staging.take(1, [0])
    assert staging.take(0, [0])[0].tolist() == [1.0] * size
    with pytest.raises(noised.NoisedError, match="two updates"):
        staging.take(0, [0])


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts programs, and leaves none behind."""
    processes: list[subprocess.Popen[str]] = []

    def start(text: str) -> subprocess.Popen[str]:
        path = tmp_path / f"program{len(processes)}.py"
        path.write_text(textwrap.dedent(text))
        processes.append(
            subprocess.Popen(
                [sys.executable, str(path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_one_core_is_enough(
    shared_server: Server, source: SourceName, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    # Gradients that are still being computed have the callback run by the one thread that there is for everything.
    process = program(f"""
        import os
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        import jax, jax.numpy as jnp, noised.jax

        @jax.jit
        def compute(leaf):
            for _ in range(5):
                leaf = jnp.cumsum(jnp.sin(leaf))
            return leaf

        params = {{"a": jnp.zeros(4_000_000), "b": jnp.zeros(6_000_000)}}
        with noised.jax.gaussian_privatizer(
            stddev=1.0, client="{shared_server.target}", source="{source}"
        ) as privatizer:
            update = jax.jit(lambda g, state: privatizer.update(jax.tree.map(jnp.sin, g), state))
            state = privatizer.init(params)
            for _ in range(3):
                noisy, state = update(jax.tree.map(compute, params), state)
            jax.block_until_ready(noisy)
        print("step", int(state.step))
    """)
    said, _ = process.communicate(timeout=120)
    assert said.endswith("step 3\n"), said


def test_gradients_may_lie_on_several_devices(
    shared_server: Server, source: SourceName, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = program(f"""
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        import jax, jax.numpy as jnp, numpy as np, noised, noised.jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        whole = {{"a": jnp.zeros(200_000), "b": jnp.zeros(8)}}
        mesh = Mesh(np.array(jax.devices()), ("x",))
        cut = jax.device_put(whole, NamedSharding(mesh, PartitionSpec("x")))
        answers = []
        for params, jit in ((whole, True), (cut, True), (cut, False)):
            with noised.jax.privatizer(
                noised.prefix_sum(), stddev=1.0, client="{shared_server.target}", source="{source}", noise_key=bytes(range(32))
            ) as privatizer:
                update = jax.jit(privatizer.update) if jit else privatizer.update
                state = privatizer.init(params)
                for _ in range(3):
                    noisy, state = update(params, state)
                # Each step was taken once, and not once for each device.
                assert privatizer.session.step == 3
                answers.append(jax.tree.map(np.asarray, noisy))
        for answer in answers:
            jax.tree.map(np.testing.assert_array_equal, answer, answers[0])
        print("the same", len(jax.devices()))
    """)
    said, _ = process.communicate(timeout=120)
    assert said.endswith("the same 2\n"), said


def test_ctrl_c_ends_a_step(
    server: Server, source: SourceName, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = program(f"""
        import jax, jax.numpy as jnp, noised.jax

        params = jnp.zeros(100_000)
        privatizer = noised.jax.gaussian_privatizer(
            stddev=1.0, client="{server.target}", source="{source}", fetch_ahead=False
        )
        update = jax.jit(privatizer.update)
        _, state = update(params, privatizer.init(params))
        while True:
            try:
                before = state
                print("a step", flush=True)
                with privatizer.errors():
                    _, state = update(params, state)
                    jax.block_until_ready(state)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
                break
        _, state = update(params, before)
        jax.block_until_ready(state)
        print("goes on", int(state.step) - int(before.step), flush=True)
        privatizer.close()
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "a step\n"
    server.pause()
    try:
        # It comes to where it waits for the server; wherever it is heard, it must be the same.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said = [process.stdout.readline()]
        while said[-1] not in ("interrupted\n", ""):
            said.append(process.stdout.readline())
    finally:
        server.proceed()
    rest, _ = process.communicate(timeout=60)
    assert said[-1] == "interrupted\n", "".join(said)
    assert rest.endswith("goes on 1\n"), rest


def test_a_program_that_closes_nothing_leaves_nothing(
    shared_server: Server, client: noised.Client, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    before = len(client.list_sessions())
    process = program(f"""
        import jax.numpy as jnp, noised.jax
        privatizer = noised.jax.gaussian_privatizer(stddev=1.0, client="{shared_server.target}")
        noisy, state = privatizer.update(jnp.zeros(3), privatizer.init(jnp.zeros(3)))
        print("sessions", len(privatizer.session.client.list_sessions()))
    """)
    said, _ = process.communicate(timeout=120)
    assert said == f"sessions {before + 1}\n"
    assert len(client.list_sessions()) == before


def test_it_is_imported_when_it_is_asked_for() -> None:
    command = (
        "import sys, noised; sys.exit(any(name in sys.modules for name in ('jax', 'optax', 'noised.jax')))"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


@pytest.mark.parametrize("jitted", [True, False])
def test_one_noise_is_not_added_to_many_gradients(client: noised.Client, jitted: bool) -> None:
    params = jnp.zeros(5)
    with noised.jax.privatizer(MATRIX, stddev=1.0, client=client) as privatizer:
        state = privatizer.init(params)
        many = jax.vmap(privatizer.update, in_axes=(0, None))
        with pytest.raises(noised.errors.InvalidArgumentError, match="vmap"):
            (jax.jit(many) if jitted else many)(jnp.ones((3, 5)), state)
        # The same is true of a training that is batched as a whole.
        with pytest.raises(noised.errors.InvalidArgumentError, match="vmap"):
            jax.vmap(lambda seed: privatizer.update(params + seed, state)[0])(jnp.arange(3.0))
        assert int(privatizer.update(params, state)[1].step) == 1
