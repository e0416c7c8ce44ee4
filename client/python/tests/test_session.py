"""Sessions on a server and in this process: steps, trees, formats, going back."""

from __future__ import annotations

import gc
import pickle
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import settle

import noised
from noised.errors import (
    DivergedError,
    FingerprintMismatchError,
    InvalidArgumentError,
    NoiseInUseError,
    NoiseUsedError,
    NoMasterKeyError,
    NotKeptError,
    PastHorizonError,
    PastReleasedError,
    PayloadMismatchError,
    ReentrantCallError,
    SessionClosedError,
    SessionExistsError,
    SessionNotFoundError,
    WrongStepError,
)

KEY = bytes(range(32))
BLT = noised.BufferedToeplitz.build([0.9, 0.5], [0.1, 0.2])


def tree_of(*values: float) -> dict[str, Any]:
    first = values[0] if values else 0.0
    return {"w": np.full((3, 5), first, np.float32), "b": [np.full(7, first, np.float32)]}


def lanes_of(tree: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([np.asarray(tree["b"][0]).ravel(), np.asarray(tree["w"]).ravel()])


def test_input_goes_through_the_matrix(anywhere: noised.Client) -> None:
    matrix = noised.prefix_sum() @ BLT.inverse_as_streaming_matrix()
    random = np.random.default_rng(0)
    steps = [
        {"w": random.normal(size=(3, 5)).astype(np.float32), "b": [random.normal(size=7).astype(np.float32)]}
        for _ in range(6)
    ]
    with anywhere.create_session(matrix, steps[0]) as session:
        answers = [lanes_of(session.multiply_next(step)) for step in steps]
        assert session.step == 6
    expected = matrix.materialize(6) @ np.stack([lanes_of(step) for step in steps])
    np.testing.assert_allclose(np.stack(answers), expected, rtol=1e-5, atol=1e-6)


def test_noise_is_that_of_its_key_wherever_it_is_drawn(client: noised.Client) -> None:
    matrix = BLT.inverse_as_streaming_matrix()
    source = noised.Gaussian(2.0, noise_key=KEY)
    drawn = []
    for place, ahead in [(client, True), (client, False), (noised.connect("local:"), True)]:
        with place.create_session(matrix, tree_of(), source, fetch_ahead=ahead) as session:
            drawn.append(np.stack([lanes_of(session.fetch()) for _ in range(10)]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    # One draw of 220 normals that are correlated again.
    normals = np.linalg.solve(matrix.materialize(10), drawn[0]) / 2.0
    assert abs(normals.mean()) < 0.3
    assert 0.8 < normals.std() < 1.2


def test_a_gradient_comes_back_with_the_noise(anywhere: noised.Client) -> None:
    matrix = BLT.inverse_as_streaming_matrix()
    noise = noised.Gaussian(1.0, noise_key=KEY)
    both = noised.Privatize(1.0, noise_key=KEY)
    with (
        anywhere.create_session(matrix, tree_of(), noise) as alone,
        anywhere.create_session(matrix, tree_of(), both) as session,
    ):
        for t in range(3):
            expected = lanes_of(tree_of(float(t))) + lanes_of(alone.fetch())
            np.testing.assert_array_equal(lanes_of(session.privatize(tree_of(float(t)))), expected)
        with pytest.raises(InvalidArgumentError, match="gaussian"):
            alone.privatize(tree_of())
        with pytest.raises(InvalidArgumentError, match="gaussian"):
            alone.multiply_next(tree_of())
        with pytest.raises(InvalidArgumentError, match="privatize"):
            session.fetch()
        assert (alone.step, session.step) == (3, 3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_format_and_kind_comes_back_as_it_went(anywhere: noised.Client, dtype: str) -> None:
    as_numpy = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    values = np.arange(6).reshape(2, 3)
    leaves: dict[str, Any] = {
        "numpy": values.astype(as_numpy),
        "torch": torch.tensor(values, dtype=getattr(torch, dtype)),
    }
    if dtype != "float64":
        leaves["jax"] = jnp.asarray(values, dtype)
    with anywhere.create_session(noised.prefix_sum(), leaves) as session:
        session.multiply_next(leaves)
        answer = session.multiply_next(leaves)
    assert answer["numpy"].dtype == as_numpy
    assert answer["torch"].dtype == getattr(torch, dtype)
    assert isinstance(answer.get("jax", jnp.zeros(1)), jax.Array)
    for kind, leaf in answer.items():
        assert leaf.dtype == leaves[kind].dtype
        wide = leaf.float().numpy() if kind == "torch" else np.asarray(leaf, np.float32)
        np.testing.assert_array_equal(wide, 2 * values)


def test_answers_may_have_a_format_of_their_own(anywhere: noised.Client) -> None:
    gradient = {"a": jnp.ones(5, jnp.bfloat16), "b": np.ones(3, np.float16)}
    source = noised.Privatize(1.0, noise_key=KEY, answer_dtype="float32")
    with anywhere.create_session(noised.identity(), gradient, source) as session:
        answer = session.privatize(gradient)
    assert answer["a"].dtype == jnp.float32
    assert answer["b"].dtype == np.float32
    wide = noised.Privatize(1.0, noise_key=KEY, answer_dtype=np.float64)
    with pytest.raises(InvalidArgumentError, match=r"tree\.a: is f64.*jax_enable_x64"):
        anywhere.create_session(noised.identity(), gradient, wide)
    with jax.enable_x64(True):
        session = anywhere.create_session(noised.identity(), gradient, wide)
    with session:
        with pytest.raises(InvalidArgumentError, match="jax_enable_x64"):
            session.privatize(gradient)
        # Nothing was handed out, so nothing is counted.
        assert session.step == 0
        with jax.enable_x64(True):
            again = session.privatize(gradient)
        np.testing.assert_allclose(np.asarray(again["a"]), np.asarray(answer["a"]), rtol=1e-6)


def test_memory_that_lies_otherwise_is_taken(anywhere: noised.Client) -> None:
    odd: dict[str, Any] = {
        "big-endian": np.arange(4, dtype=">f4"),
        "columns": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "every other": torch.arange(8, dtype=torch.float32)[::2],
        "read-only": np.broadcast_to(np.float32(3), (2, 2)),
        "scalar": np.float32(2),
        "nothing": np.zeros((0, 3), np.float32),
    }
    with anywhere.create_session(noised.identity(), odd) as session:
        answer = session.multiply_next(odd)
    for name, leaf in odd.items():
        np.testing.assert_array_equal(np.asarray(answer[name]), np.asarray(leaf))
        assert tuple(answer[name].shape) == tuple(leaf.shape)


@pytest.mark.parametrize(
    ("leaf", "rule"),
    [
        (np.arange(3), r"tree\.x: must be float32, float64, float16 or bfloat16, found int64"),
        (np.zeros(3, bool), "found bool"),
        (np.zeros(3, complex), "found complex128"),
        (torch.zeros(3, dtype=torch.int32), "found int32"),
        (jnp.zeros(3, jnp.int8), "found int8"),
        (3.0, "must be an array of NumPy, JAX or PyTorch, found float"),
        ("text", "found str"),
    ],
)
def test_leaves_that_are_no_real_numbers_are_refused(client: noised.Client, leaf: Any, rule: str) -> None:
    with pytest.raises(InvalidArgumentError, match=rule) as raised:
        client.create_session(noised.prefix_sum(), {"x": leaf})
    assert raised.value.field == "tree.x"
    assert isinstance(raised.value, ValueError)


def test_a_tree_that_changed_is_refused_and_nothing_is_lost(anywhere: noised.Client) -> None:
    with anywhere.create_session(noised.prefix_sum(), tree_of()) as session:
        session.multiply_next(tree_of(1))
        changed: list[tuple[Any, str]] = [
            ({"w": tree_of()["w"]}, r"b/0 missing"),
            ({**tree_of(), "c": np.zeros(1)}, r"c not part of it"),
            (
                {"w": np.zeros((5, 3), np.float32), "b": tree_of()["b"]},
                r"tree\.w: must have the session's shape \(3, 5\)",
            ),
            (
                {"w": np.zeros((3, 5)), "b": tree_of()["b"]},
                r"tree\.w: must have the session's format f32, found f64",
            ),
            ({"w": [0.0], "b": tree_of()["b"]}, "w/0"),
        ]
        for tree, rule in changed:
            with pytest.raises(InvalidArgumentError, match=rule):
                session.multiply_next(tree)
        assert session.step == 1
        np.testing.assert_array_equal(lanes_of(session.multiply_next(tree_of(1))), np.full(22, 2.0))


def test_a_step_is_taken_once(anywhere: noised.Client) -> None:
    with anywhere.create_session(noised.prefix_sum(), tree_of()) as session:
        first = lanes_of(session.multiply_next(tree_of(1), step=0))
        np.testing.assert_array_equal(lanes_of(session.multiply_next(tree_of(1), step=0)), first)
        with pytest.raises(PayloadMismatchError) as mismatch:
            session.multiply_next(tree_of(2), step=0)
        assert (mismatch.value.requested, mismatch.value.expected) == (0, 1)
        with pytest.raises(WrongStepError, match="expects step 1") as wrong:
            session.multiply_next(tree_of(1), step=5)
        assert (wrong.value.requested, wrong.value.expected) == (5, 1)
        assert "rewind" in str(wrong.value)
        assert session.step == 1
        np.testing.assert_array_equal(lanes_of(session.multiply_next(tree_of(1))), np.full(22, 2.0))


@pytest.mark.parametrize("ahead", [True, False])
def test_a_horizon_is_a_wall(anywhere: noised.Client, ahead: bool) -> None:
    source = noised.Gaussian(1.0)
    with anywhere.create_session(
        noised.identity(), tree_of(), source, horizon=3, fetch_ahead=ahead
    ) as session:
        assert session.horizon == 3
        for _ in range(3):
            session.fetch()
        with pytest.raises(PastHorizonError) as past:
            session.fetch()
        assert (past.value.requested, past.value.horizon) == (3, 3)


@pytest.mark.parametrize("ahead", [True, False])
def test_noise_comes_again_after_going_back(anywhere: noised.Client, ahead: bool) -> None:
    matrix = BLT.inverse_as_streaming_matrix()
    with anywhere.create_session(matrix, tree_of(), noised.Gaussian(1.0), fetch_ahead=ahead) as session:
        noise = [lanes_of(session.fetch()) for _ in range(4)]
        with pytest.raises(WrongStepError) as wrong:
            session.fetch(step=1)
        assert wrong.value.expected == 4
        session.state()
        noise += [lanes_of(session.fetch()) for _ in range(4)]
        told: list[tuple[int, int]] = []
        for step in (4, 7, 2):
            session.rewind(step, on_progress=lambda done, total: told.append((done, total)))
            assert session.step == step
            for t in range(step, 8):
                np.testing.assert_array_equal(lanes_of(session.fetch(step=t)), noise[t])
        assert all(done <= total for done, total in told)
        assert session.info()[0]["rewind_count"] >= 3


@pytest.mark.parametrize("ahead", [True, False])
def test_a_step_that_was_fetched_ahead_is_handed_out_whatever_happens(
    anywhere: noised.Client, ahead: bool
) -> None:
    source = noised.Gaussian(1.0, noise_key=KEY)
    params = noised.ShapeDtype((50,), "float32")
    with anywhere.create_session(noised.prefix_sum(), params, source) as whole:
        noise = [whole.fetch() for _ in range(20)]
    with anywhere.create_session(noised.prefix_sum(), params, source, fetch_ahead=ahead) as session:
        for t in range(0, 15, 3):
            np.testing.assert_array_equal(session.fetch(), noise[t])
            with pytest.raises(PastReleasedError):
                session.rewind(99)
            with pytest.raises(InvalidArgumentError):
                session.rewind("x")  # type: ignore[arg-type]
            assert session.step == t + 1
            np.testing.assert_array_equal(session.fetch(), noise[t + 1])
            session.refresh()
            session.refresh()
            assert session.step == t + 2
            # The step before is given again, and so is what comes then.
            np.testing.assert_array_equal(session.fetch(step=t + 1), noise[t + 1])
            np.testing.assert_array_equal(session.fetch(), noise[t + 2])
            session.state()


def test_a_handle_that_is_closed_late_moves_nothing(anywhere: noised.Client) -> None:
    name = "test-closed-late"
    params = noised.ShapeDtype((50,), "float32")
    old = anywhere.create_session(noised.prefix_sum(), params, noised.Gaussian(1.0), id=name)
    old.fetch()
    state = old.state()
    old.fetch()
    settle(old)
    new = noised.resume(state, params, client=anywhere)
    used = [new.fetch() for _ in range(2)]
    # At worst it stands where the old handle left it.
    assert new._ahead is not None
    new._ahead.stop()
    old.close()
    used += [new.fetch() for _ in range(3)]
    assert len({noise.tobytes() for noise in used}) == 5
    new.rewind(1)
    for noise in used:
        np.testing.assert_array_equal(new.fetch(), noise)
    new.delete()


@pytest.mark.parametrize(
    "options",
    [
        {"source": "gaussian"},
        {"source": noised.Gaussian},
        {"horizon": -1},
        {"horizon": "5"},
        {"id": None},
        {"shard": (0, 2)},
        {"lookahead": 1.5},
        {"precision": "int8"},
        {"noise_state": "gone"},
        {"source": noised.Gaussian("2")},  # type: ignore[arg-type]
        {"source": noised.Gaussian(float("nan"))},
        {"source": noised.Gaussian(-1.0)},
        {"source": noised.Gaussian(1.0, noise_key=b"short")},
        {"source": noised.Gaussian(1.0, noise_key=KEY, noise_id="both")},
        {"tree": {"a": noised.ShapeDtype((-3,), "float32")}},
        {"tree": {"a": noised.ShapeDtype(3, "float32")}},  # type: ignore[arg-type]
        {"tree": {}},
        {"tree": np.ma.masked_array([1.0, 2.0], mask=[False, True])},
    ],
)
def test_arguments_that_break_a_rule_are_named(client: noised.Client, options: dict[str, Any]) -> None:
    tree = options.pop("tree", np.zeros(3, np.float32))
    if options.get("source") == noised.Gaussian("2"):  # type: ignore[arg-type]
        options["source"] = noised.Gaussian("two")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError) as raised:
        client.create_session(noised.prefix_sum(), tree, **options)
    assert raised.value.field
    assert type(pickle.loads(pickle.dumps(raised.value))) is InvalidArgumentError
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize("step", ["1", 1.5, -1, 1 << 64])
def test_a_step_is_a_whole_number(anywhere: noised.Client, step: Any) -> None:
    with anywhere.create_session(
        noised.prefix_sum(), np.zeros(3, np.float32), noised.Gaussian(1.0)
    ) as session:
        session.fetch(step=np.int64(0))
        assert session.state()
        with pytest.raises(InvalidArgumentError, match="step"):
            session.fetch(step=step)
        with pytest.raises(InvalidArgumentError, match="step"):
            session.rewind(step)


def test_a_tree_that_changes_later_changes_nothing(anywhere: noised.Client) -> None:
    tree = tree_of()
    with anywhere.create_session(noised.prefix_sum(), tree, noised.Gaussian(1.0)) as session:
        first = weakref.ref(tree["w"])
        tree["more"] = 1
        del tree["w"]
        assert set(session.fetch()) == {"w", "b"}
        gc.collect()
        assert first() is None


def test_one_master_key_is_one_place_in_this_process() -> None:
    params = np.zeros(3, np.float32)
    source = noised.Gaussian(1.0, noise_id="test/one-place")
    with pytest.raises(NoMasterKeyError):
        noised.connect("local:").create_session(noised.prefix_sum(), params, source)
    with noised.connect("local:", master_key=KEY).create_session(
        noised.prefix_sum(), params, source
    ) as first:
        first.fetch()
        with pytest.raises(NoiseInUseError):
            noised.connect("local:", master_key=KEY).create_session(noised.prefix_sum(), params, source)
    with pytest.raises(NoiseUsedError):
        noised.connect("local:", master_key=KEY).create_session(noised.prefix_sum(), params, source)


def test_a_released_gradient_is_not_released_otherwise(anywhere: noised.Client) -> None:
    with anywhere.create_session(noised.prefix_sum(), tree_of(), noised.Privatize(1.0)) as session:
        noisy = [lanes_of(session.privatize(tree_of(float(t)))) for t in range(3)]
        session.rewind(1)
        np.testing.assert_array_equal(lanes_of(session.privatize(tree_of(1.0))), noisy[1])
        with pytest.raises(DivergedError) as diverged:
            session.privatize(tree_of(9.0))
        assert diverged.value.expected == 2
        np.testing.assert_array_equal(lanes_of(session.privatize(tree_of(2.0))), noisy[2])
        session.rewind(1, allow_divergence=True)
        session.privatize(tree_of(9.0))


def test_input_cannot_be_drawn_again(anywhere: noised.Client) -> None:
    with anywhere.create_session(noised.prefix_sum(), tree_of()) as session:
        for _ in range(2):
            session.multiply_next(tree_of(1))
        session.state()
        session.multiply_next(tree_of(1))
        with pytest.raises(NotKeptError):
            session.rewind(1)
        session.rewind(2)
        np.testing.assert_array_equal(lanes_of(session.multiply_next(tree_of(2))), np.full(22, 4.0))


def test_what_raises_in_progress_ends_the_rewind(anywhere: noised.Client) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyError("enough")

    params = noised.ShapeDtype((4096,), "float32")
    with anywhere.create_session(BLT.inverse_as_streaming_matrix(), params, noised.Gaussian(1.0)) as session:
        for _ in range(60):
            session.fetch()
        with pytest.raises(KeyError, match="enough"):
            session.rewind(50, on_progress=stop)
        session.rewind(50)
        assert session.step == 50
        session.fetch()


def test_names_and_ends(anywhere: noised.Client) -> None:
    name = "test-names-and-ends"
    with anywhere.create_session(noised.prefix_sum(), tree_of(), id=name) as session:
        assert session.name == f"sessions/{name}"
        session.multiply_next(tree_of(1))
        with pytest.raises(SessionExistsError, match="resume=True"):
            anywhere.create_session(noised.prefix_sum(), tree_of(), id=name)
        with pytest.raises(FingerprintMismatchError) as other:
            anywhere.create_session(noised.identity(), tree_of(), id=name, resume=True)
        assert other.value.field == "matrix"
    with pytest.raises(SessionClosedError):
        session.multiply_next(tree_of(1))
    session.close()
    assert "closed" in repr(session)
    assert anywhere.get_session(name)["next_step"] == 1
    assert name in [found["name"].removeprefix("sessions/") for found in anywhere.list_sessions()]
    with anywhere.create_session(noised.prefix_sum(), tree_of(), id=name, resume=True) as again:
        assert again.resumed
        np.testing.assert_array_equal(lanes_of(again.multiply_next(tree_of(1))), np.full(22, 2.0))
    opened = anywhere.open_session(name)
    assert opened.step == 2
    answer = opened.multiply_next({"w": np.ones((3, 5), np.float32), "b/0": np.ones(7, np.float32)})
    assert set(answer) == {"w", "b/0"}
    opened.delete()
    with pytest.raises(SessionNotFoundError):
        anywhere.get_session(name)


def test_a_session_without_an_id_goes_with_its_handle(anywhere: noised.Client) -> None:
    with anywhere.create_session(noised.prefix_sum(), tree_of()) as session:
        name = session.name
    with pytest.raises(SessionNotFoundError):
        anywhere.get_session(name)
    with anywhere.create_session(noised.prefix_sum(), tree_of()) as session:
        name = session.name
        session.state()
    assert anywhere.get_session(name)["kept_steps"] == [0]
    anywhere.delete_session(name)


def test_a_closed_handle_leaves_the_session_at_its_own_step(anywhere: noised.Client) -> None:
    name = "test-closed-at-its-step"
    source = noised.Gaussian(1.0)
    with anywhere.create_session(noised.identity(), tree_of(), source, id=name) as session:
        session.fetch()
        second = lanes_of(session.fetch())
    with anywhere.create_session(noised.identity(), tree_of(), source, id=name, resume=True) as session:
        assert session.step == 2
        session.rewind(1)
        np.testing.assert_array_equal(lanes_of(session.fetch()), second)
        session.delete()


def test_answers_keep_their_memory_and_give_it_back(client: noised.Client) -> None:
    params = {"a": np.zeros(300_000, np.float32), "b": np.zeros(5, np.float32)}
    with client.create_session(noised.prefix_sum(), params) as session:
        ones = {name: np.ones_like(leaf) for name, leaf in params.items()}
        kept = [session.multiply_next(ones) for _ in range(6)]
        for t, answer in enumerate(kept):
            np.testing.assert_array_equal(answer["a"], np.full(300_000, t + 1.0))
        part = kept[0]["a"][10:20][::2]
        as_torch = torch.from_numpy(kept[1]["a"])
        del kept, answer
        gc.collect()
        places = {session.multiply_next(ones)["a"].ctypes.data for _ in range(8)}
        assert len(places) <= 3
        np.testing.assert_array_equal(part, np.ones(5))
        assert bool((as_torch == 2).all())


def test_answers_of_jax_keep_their_values(client: noised.Client) -> None:
    params = {"a": jnp.zeros(300_000), "b": jnp.zeros(300_000)}
    ones = jax.tree.map(jnp.ones_like, params)
    with client.create_session(noised.prefix_sum(), params) as session:
        kept = [session.multiply_next(ones) for _ in range(12)]
    for t, answer in enumerate(kept):
        assert bool((answer["a"] == t + 1).all())
        assert bool((answer["b"] == t + 1).all())


def test_a_callback_is_told_not_to_call(client: noised.Client) -> None:
    params = noised.ShapeDtype((4096,), "float32")
    for place in (client, noised.connect("local:")):
        with place.create_session(noised.prefix_sum(), params, noised.Gaussian(1.0)) as session:
            for _ in range(40):
                session.fetch()
            with pytest.raises(ReentrantCallError, match="callback"):
                session.rewind(30, on_progress=lambda done, total: session.info())
            session.rewind(30)
            session.fetch()


def test_a_session_that_is_forgotten_is_told_of(client: noised.Client) -> None:
    session = client.create_session(noised.prefix_sum(), np.zeros(3, np.float32))
    name = session.name
    handles = [session]
    del session
    with pytest.warns(ResourceWarning, match="never closed"):
        handles.clear()
    client.delete_session(name)
    local = noised.connect("local:")
    handles = [local.create_session(noised.prefix_sum(), np.zeros(3, np.float32))]
    name = handles[0].name
    with pytest.warns(ResourceWarning, match="never closed"):
        handles.clear()
    # Its memory is this process's: it is let go of.
    with pytest.raises(SessionNotFoundError):
        local.get_session(name)


def test_shards_are_parts_of_the_whole(client: noised.Client) -> None:
    params = {"a": np.zeros((10, 3), np.float32), "b": np.zeros(11, np.float32)}
    matrix = BLT.inverse_as_streaming_matrix()
    source = noised.Gaussian(1.0, noise_id="test/shards")
    parts = []
    for index in range(3):
        shard = noised.Shard(index, 3)
        with client.create_session(matrix, params, source, shard=shard, id=f"test-shard-{index}") as session:
            assert len(session.lanes) in (13, 14)
            parts.append(np.stack([session.fetch() for _ in range(4)]))
            assert parts[-1].shape == (4, len(session.lanes))
            session.delete()
    with client.create_session(matrix, params, source, start_noise_over=True) as session:
        whole = [session.fetch() for _ in range(4)]
    flat = np.stack([np.concatenate([tree["a"].ravel(), tree["b"]]) for tree in whole])
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), flat)
    # One of one is an array as well: a script for many workers runs on one.
    alone = noised.Gaussian(1.0, noise_key=KEY)
    with client.create_session(
        matrix, params, alone, shard=noised.Shard(0, 1), id="test-shard-of-one"
    ) as session:
        assert session.fetch().shape == (41,)
        state = session.state()
    with noised.resume(state, params) as session:
        assert session.fetch().shape == (41,)
        session.delete()
    mixed = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float64)}
    with pytest.raises(InvalidArgumentError, match="of one format"):
        client.create_session(matrix, mixed, source, shard=noised.Shard(0, 2))
