"""Trees that `noised.jax` is given: empty ones, keys, NumPy's formats; and optax around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import noised
import noised.jax
from noised.errors import InvalidArgumentError

KEY = bytes(range(32))
BLT = noised.BufferedToeplitz.from_rational_approx_to_sqrt_x(2).inverse_as_streaming_matrix()
SOURCES = pytest.mark.parametrize("source", ["gaussian", "privatize"])


def noise_of(params: Any, steps: int) -> list[Any]:
    """The steps of the noise."""
    with noised.connect().create_session(BLT, params, noised.Gaussian(1.0, noise_key=KEY)) as session:
        return [session.fetch() for _ in range(steps)]


@contextmanager
def no_new_sessions() -> Iterator[None]:
    local = noised.connect()
    before = {info.name for info in local.list_sessions()}
    yield
    assert {info.name for info in local.list_sessions()} <= before


@SOURCES
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("empty", [{}, [], {"a": {}, "b": ()}, None, optax.MaskedNode()], ids=repr)
def test_an_empty_tree_does_nothing(source: Any, jit: bool, empty: Any) -> None:
    with no_new_sessions(), noised.jax.privatizer(BLT, stddev=1.0, source=source) as privatizer:
        update = jax.jit(privatizer.update) if jit else privatizer.update
        state = jax.jit(privatizer.init)(empty) if jit else privatizer.init(empty)
        for step in range(3):
            assert int(state.step) == step
            noisy, state = update(empty, state)
            assert str(jax.tree.structure(noisy)) == str(jax.tree.structure(empty))
        with pytest.raises(InvalidArgumentError, match="there is no session"):
            privatizer.state_bytes()


@SOURCES
def test_groups_of_which_some_are_empty(source: Any) -> None:
    params = {"w": jnp.zeros(3), "b": jnp.zeros(2)}
    made = {
        name: noised.jax.privatizer(BLT, stddev=1.0, source=source, noise_key=KEY) for name in ("all", "none")
    }
    optimizer = optax.multi_transform(made, {"w": "all", "b": "all"})
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for noise in noise_of(params, 3):
        noisy, state = update(params, state)
        jax.tree.map(np.testing.assert_array_equal, noisy, noise)
    with pytest.raises(InvalidArgumentError, match="there is no session"):
        _ = made["none"].session
    for privatizer in made.values():
        privatizer.close()


@pytest.mark.parametrize(
    ("leaf", "rule"),
    [
        (lambda: jax.random.key(0), r"tree\.x: must be float32.*found key<fry>"),
        (lambda: jax.random.PRNGKey(0), r"tree\.x: must be float32.*found uint32"),
        (lambda: jnp.arange(3), r"tree\.x: must be float32.*found int32"),
        (lambda: jnp.zeros(3, bool), r"tree\.x: must be float32.*found bool"),
        (lambda: np.zeros(3, complex), r"tree\.x: must be float32.*found complex"),
        (lambda: "text", r"tree\.x: must be an array, found str"),
        (object, r"tree\.x: must be an array, found object"),
    ],
)
@pytest.mark.parametrize("jit", [True, False])
def test_leaves_that_are_no_parameters_are_refused_as_it_begins(leaf: Any, rule: str, jit: bool) -> None:
    with no_new_sessions(), noised.jax.privatizer(BLT, stddev=1.0) as privatizer:
        params = {"w": jnp.zeros(2), "x": leaf()}
        if jit and not isinstance(params["x"], (jax.Array, np.ndarray)):
            pytest.skip("JAX refuses it")
        with pytest.raises(InvalidArgumentError, match=rule):
            (jax.jit(privatizer.init) if jit else privatizer.init)(params)


@SOURCES
@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f4", ">f8"])
def test_arrays_of_numpy_are_as_jax_has_them(source: Any, jit: bool, dtype: Any) -> None:
    params = {"w": np.ones((2, 3), dtype), "b": np.ones(4, np.float32)}
    as_jax = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float32)), params)
    with noised.jax.privatizer(BLT, stddev=1.0, source=source, noise_key=KEY) as privatizer:
        state = privatizer.init(params)
        update = jax.jit(privatizer.update) if jit else privatizer.update
        for step, noise in enumerate(noise_of(as_jax, 3)):
            # Gradients of NumPy, and as JAX computes them.
            given = as_jax if jit or step == 1 else params
            noisy, state = update(given, state)
            for name in params:
                assert noisy[name].dtype == jnp.float32
                np.testing.assert_array_equal(noisy[name], 1 + noise[name])


@SOURCES
def test_with_x64_a_float64_stays_one(source: Any) -> None:
    with jax.enable_x64(True):
        params = {"w": np.ones(3, np.float64)}
        with noised.jax.privatizer(BLT, stddev=1.0, source=source, noise_key=KEY) as privatizer:
            noisy, _ = privatizer.update(params, privatizer.init(params))
            assert noisy["w"].dtype == jnp.float64
            np.testing.assert_array_equal(noisy["w"], 1 + noise_of(params, 1)[0]["w"])


class TestInjectedHyperparameters:
    """`optax.inject_hyperparams` calls what it wraps for every trace."""

    def test_around_a_privatizer_that_is_made_outside(self) -> None:
        params = {"w": jnp.zeros(3)}
        with noised.jax.privatizer(BLT, stddev=1.0, noise_key=KEY) as privatizer:
            optimizer = optax.inject_hyperparams(
                lambda learning_rate: optax.chain(privatizer, optax.sgd(learning_rate))
            )(learning_rate=0.5)
            state = optimizer.init(params)
            update = jax.jit(optimizer.update)
            for noise in noise_of(params, 4):
                updates, state = update(params, state)
                np.testing.assert_array_equal(updates["w"], -0.5 * noise["w"])
                # Another trace.
                update = jax.jit(optimizer.update)
            assert privatizer.session.step == 4

    def test_a_standard_deviation_that_is_traced_is_refused(self) -> None:
        params = {"w": jnp.zeros(3)}
        optimizer = optax.inject_hyperparams(noised.jax.privatizer, static_args=("noising_matrix",))(
            noising_matrix=BLT, stddev=1.0
        )
        state = optimizer.init(params)
        with pytest.raises(InvalidArgumentError, match=r"stddev: .*traced.*inject_hyperparams"):
            jax.jit(optimizer.update)(params, state)


def test_a_design_is_taken_for_its_noising_matrix() -> None:
    design = noised.optimize("buffered_toeplitz", 16, buffers=1)
    params = {"w": jnp.zeros(3)}
    found = []
    for matrix in (design, design.noising_matrix):
        with noised.jax.privatizer(matrix, stddev=1.0, noise_key=KEY) as privatizer:
            found.append(privatizer.update(params, privatizer.init(params))[0]["w"])
    np.testing.assert_array_equal(*found)
    strategy: Any = noised.BufferedToeplitz.build([0.5], [0.1])
    with pytest.raises(InvalidArgumentError, match=r"inverse_as_streaming_matrix\(\) makes one"):
        noised.jax.privatizer(strategy, stddev=1.0)
    recommendation: Any = noised.recommend(8, max_planes=1)
    with pytest.raises(InvalidArgumentError, match=r"\.best is a design"):
        noised.jax.privatizer(recommendation, stddev=1.0)
    with pytest.raises(InvalidArgumentError, match=r"matrix: .*Design.*\.noising_matrix"):
        noised.connect().create_session(design, params)  # type: ignore[arg-type]
