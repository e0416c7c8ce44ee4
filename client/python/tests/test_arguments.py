"""Every argument of every public function, given what it must not be: what breaks a rule is a `NoisedError` that names it."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import optax
import pytest
import torch

import noised
import noised.aio
import noised.jax
import noised.torch
from noised import banded, buffered_toeplitz, design, streaming_matrix, toeplitz
from noised._check import shown
from noised.errors import InvalidArgumentError, NoisedError

#: The package without its types: what a test does wrong is meant.
loose: Any = noised
PREFIX = noised.prefix_sum()
STRATEGY = noised.BufferedToeplitz.build([0.9], [0.2])
SAMPLING = noised.Sampling.poisson(0.1)
TREE = {"w": np.zeros(3, np.float32)}


class Odd:
    """An object that can do nothing, not even say what it is."""

    def __repr__(self) -> str:
        raise ValueError("no")


#: What somebody hands over by mistake.
ODD: list[Any] = [
    None,
    True,
    np.True_,
    -1,
    2.5,
    float("nan"),
    float("-inf"),
    10**400,
    -(10**5000),
    1 << 63,
    1 << 64,
    1e300,
    "",
    "1.5",
    "x",
    "\ud800",
    b"5",
    bytearray(b"x"),
    1j,
    [],
    [1, "2"],
    ["\udfff"],
    [[1.0], [2.0, 3.0]],
    (True, 1.0),
    {},
    {"kind": "identity"},
    {1: 2, "x": 3},
    {"\ud800": np.zeros(1, np.float32)},
    set(),
    object(),
    Odd(),
    Odd,
    int,
    len,
    range(3),
    Decimal("1.5"),
    Decimal("sNaN"),
    Fraction(1, 3),
    np.array("x"),
    np.array([1, 2]),
    np.array([1.5]),
    np.array([True]),
    np.array([object()]),
    np.ma.masked_array([1.0], [True]),
    np.datetime64("2020-01-01"),
    np.complex64(1),
    torch.tensor([1.0, 2.0]),
    torch.tensor(True),
    torch.tensor(1.5, requires_grad=True),
    torch.zeros(2, dtype=torch.complex64),
    noised.Input(),
    PREFIX,
    STRATEGY,
    noised.ShapeDtype((2,), None),
    noised.ShapeDtype("ab", "float32"),  # type: ignore[arg-type]
    noised.ShapeDtype((-1,), "float32"),
    noised.ShapeDtype((1 << 62, 4), "float32"),
]


def model() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


def stepped(**arguments: Any) -> None:
    """A privatizer of PyTorch that has taken a step, of which it makes its session."""
    given: dict[str, Any] = {"parameters": model(), "missing_as_zero": True} | arguments
    with noised.torch.Privatizer(**given) as privatizer:
        privatizer.add_noise()


def stepped_shard(gradient: Any = None, **arguments: Any) -> None:
    given: dict[str, Any] = {"parameters": model()} | arguments
    with noised.torch.ShardPrivatizer(**given) as privatizer:
        privatizer.add_noise(torch.zeros(6) if gradient is None else gradient)


def stepped_jax(params: Any = None, gradients: Any = None, **arguments: Any) -> None:
    with noised.jax.privatizer(**arguments) as privatizer:
        tree = TREE if params is None else params
        state = privatizer.init(tree)
        privatizer.update(tree if gradients is None else gradients, state)


def resumed(**arguments: Any) -> None:
    local = noised.connect()
    with local.create_session(PREFIX, TREE, noised.Gaussian(1.0)) as session:
        state = session.state()
        noised.resume(**{"state": state, "tree": TREE} | arguments).delete()


def loaded(state_dict: Any = None, **changes: Any) -> None:
    with noised.torch.Privatizer(model(), PREFIX, 1.0) as privatizer:
        state = privatizer.state_dict() if state_dict is None else state_dict
        privatizer.load_state_dict(state | changes if isinstance(state, dict) else state)


def created(**arguments: Any) -> None:
    given: dict[str, Any] = {"matrix": PREFIX, "tree": TREE} | arguments
    with noised.connect().create_session(**given):
        pass


def with_session(call: str, source: Any = None) -> Callable[..., None]:
    def run(**arguments: Any) -> None:
        with noised.connect().create_session(PREFIX, TREE, source or noised.Gaussian(1.0)) as session:
            if source is None:
                session.fetch()
            getattr(session, call)(**arguments)

    return run


def with_client(call: str) -> Callable[..., Any]:
    return getattr(noised.connect(), call)  # type: ignore[no-any-return]


CREATE = {
    "id": "",
    "resume": False,
    "shard": None,
    "cut": "lanes",
    "precision": None,
    "horizon": None,
    "lookahead": None,
    "noise_state": None,
    "start_noise_over": False,
    "fetch_ahead": True,
}
SESSION = {name: value for name, value in CREATE.items() if name not in ("shard", "cut")}
NOISE = {"noise_id": None, "noise_key": bytes(32)}
QUESTION = {"participation": None, "objective": "mean", "workload": None, "client": None, "on_progress": None}
BLT = STRATEGY.as_streaming_matrix()
ROWS = [[1.0, 0.0], [0.5, 1.0]]

#: Calls that succeed, by the names of what they call.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "noised.connect": (
        noised.connect,
        {
            "target": "local:",
            "patience": 0.01,
            "master_key": None,
            "tls": None,
            "token": None,
            "insecure": False,
        },
    ),
    "noised.connect, by TLS": (
        noised.connect,
        {"target": "https://127.0.0.1:1", "patience": 0.01, "tls": noised.Tls("absent.pem")},
    ),
    "noised.Tls": (
        noised.Tls,
        {"ca": "ca.pem", "cert": "trainer.pem", "key": "trainer.key", "server_name": "localhost"},
    ),
    "noised.resume": (
        resumed,
        {"client": None, "tree": TREE, "allow_divergence": False, "fetch_ahead": True, "on_progress": None},
    ),
    "noised.Participation": (
        noised.Participation,
        {"min_sep": 2, "max_participations": 3, "epochs": None},
    ),
    "noised.Privatize": (
        lambda **arguments: created(source=noised.Privatize(**arguments)),
        {"stddev": 1.0, "answer_dtype": "float32", **NOISE},
    ),
    "noised.Gaussian": (
        lambda **arguments: created(source=noised.Gaussian(**arguments)),
        {"stddev": 1.0, **NOISE},
    ),
    "noised.Shard": (
        lambda **arguments: created(shard=noised.Shard(**arguments)),
        {"index": 0, "count": 2, "cut": "lanes"},
    ),
    "noised.ShapeDtype": (
        lambda **arguments: created(tree=noised.ShapeDtype(**arguments)),
        {"shape": (2,), "dtype": "float32"},
    ),
    "noised.BufferedToeplitz": (noised.BufferedToeplitz, {"buf_decay": [0.5], "output_scale": [0.1]}),
    "noised.StreamingMatrix": (noised.StreamingMatrix, {"spec": {"kind": "identity"}}),
    "noised.Sensitivity": (
        lambda squared: noised.calibrate(noised.Sensitivity(squared, True, "x"), rho=1.0),
        {"squared": 1.0},
    ),
    "noised.calibrate": (
        noised.calibrate,
        {
            "sensitivity": 1.0,
            "epsilon": 1.0,
            "delta": 1e-5,
            "rho": None,
            "mu": None,
            "noise_multiplier": None,
            "client": None,
        },
    ),
    "noised.account": (
        noised.account,
        {
            "n": 4,
            "sampling": SAMPLING,
            "noise_multiplier": 1.0,
            "epsilon": None,
            "delta": 1e-5,
            "strategy": None,
            "participation": None,
            "client": None,
        },
    ),
    "noised.epsilon": (
        noised.epsilon,
        {"n": 4, "sampling": SAMPLING, "noise_multiplier": 1.0, "delta": 1e-5, "client": None},
    ),
    "noised.Sampling": (
        lambda **arguments: noised.epsilon(4, noised.Sampling(**arguments), noise_multiplier=1.0, delta=1e-5),
        {"scheme": "poisson", "probability": 0.1, "bands": None, "batch_size": None, "examples": None},
    ),
    "Sampling.poisson": (noised.Sampling.poisson, {"probability": 0.1}),
    "Sampling.cyclic_poisson": (noised.Sampling.cyclic_poisson, {"probability": 0.1, "bands": 2}),
    "Sampling.fixed_size": (noised.Sampling.fixed_size, {"batch_size": 1, "examples": 10}),
    "noised.optimize": (
        noised.optimize,
        {"family": "banded_toeplitz", "n": 4, "bands": 2, "buffers": None, **QUESTION},
    ),
    "noised.optimize, buffers": (noised.optimize, {"family": "buffered_toeplitz", "n": 4, "buffers": 1}),
    "noised.recommend": (noised.recommend, {"n": 4, "max_planes": 1, **QUESTION}),
    "noised.sensitivity": (
        noised.sensitivity,
        {"strategy": BLT, "n": 4, "participation": None, "client": None},
    ),
    "noised.query_errors": (
        noised.query_errors,
        {"noising_matrix": BLT, "n": 4, "workload": None, "client": None},
    ),
    "noised.dense": (noised.dense, {"rows": ROWS}),
    "noised.diagonal": (noised.diagonal, {"diag": [1.0, 2.0]}),
    "noised.momentum_sgd_matrix": (
        noised.momentum_sgd_matrix,
        {"momentum": 0.5, "learning_rates": [0.1]},
    ),
    "noised.multiply_streaming_matrices": (noised.multiply_streaming_matrices, {"A": PREFIX, "B": PREFIX}),
    "noised.scale_rows_and_columns": (
        noised.scale_rows_and_columns,
        {"matrix": PREFIX, "row_scale": [1.0], "col_scale": [1.0]},
    ),
    "streaming_matrix.multiply_array": (streaming_matrix.multiply_array, {"A": PREFIX, "x": [1.0]}),
    "streaming_matrix.numbers": (streaming_matrix.numbers, {"field": "x", "values": [1.0]}),
    "StreamingMatrix.from_json": (noised.StreamingMatrix.from_json, {"text": '{"kind": "identity"}'}),
    "StreamingMatrix.materialize": (PREFIX.materialize, {"n": 3, "client": None}),
    "StreamingMatrix.row_norms_squared": (PREFIX.row_norms_squared, {"n": 3, "client": None}),
    "StreamingMatrix.multiply": (PREFIX.multiply, {"x": [1.0], "client": None}),
    "StreamingMatrix.scale_rows_and_columns": (
        PREFIX.scale_rows_and_columns,
        {"row_scale": [1.0], "col_scale": [1.0]},
    ),
    "toeplitz.matrix": (toeplitz.matrix, {"coef": [1.0, 0.5], "column_normalize_for_n": 4}),
    "toeplitz.inverse": (toeplitz.inverse, {"coef": [1.0, 0.5], "column_normalize_for_n": None}),
    "toeplitz.inverse_as_streaming_matrix": (
        toeplitz.inverse_as_streaming_matrix,
        {"coef": [1.0], "column_normalize_for_n": None},
    ),
    "toeplitz.optimal_max_error_strategy_coefs": (toeplitz.optimal_max_error_strategy_coefs, {"n": 4}),
    "toeplitz.optimal_max_error_noising_coefs": (toeplitz.optimal_max_error_noising_coefs, {"n": 4}),
    "toeplitz.banded_square_root_coefs": (toeplitz.banded_square_root_coefs, {"bands": 2, "workload": [1.0]}),
    "toeplitz.banded_inverse_square_root": (
        toeplitz.banded_inverse_square_root,
        {"bands": 2, "workload": None},
    ),
    "toeplitz.lambda_cgd": (toeplitz.lambda_cgd, {"lambda_": 0.5, "n": 4}),
    "toeplitz.inverse_coef": (toeplitz.inverse_coef, {"coef": [1.0, 0.5], "n": 3}),
    "toeplitz.materialize_lower_triangular": (
        toeplitz.materialize_lower_triangular,
        {"coef": [1.0, 0.5], "n": 3},
    ),
    "toeplitz.optimize_banded_toeplitz": (
        toeplitz.optimize_banded_toeplitz,
        {"n": 4, "bands": 2, "objective": "max", "client": None},
    ),
    "banded.ColumnNormalizedBanded": (banded.ColumnNormalizedBanded, {"params": np.ones((3, 2))}),
    "ColumnNormalizedBanded.default": (banded.ColumnNormalizedBanded.default, {"n": 4, "bands": 2}),
    "ColumnNormalizedBanded.from_banded_toeplitz": (
        banded.ColumnNormalizedBanded.from_banded_toeplitz,
        {"n": 4, "coef": [1.0, 0.5]},
    ),
    "banded.optimize": (
        banded.optimize,
        {"n": 4, "bands": 2, "A": None, "objective": "mean", "client": None},
    ),
    "BufferedToeplitz.build": (noised.BufferedToeplitz.build, {"buf_decay": [0.5], "output_scale": [0.1]}),
    "BufferedToeplitz.from_rational_approx_to_sqrt_x": (
        noised.BufferedToeplitz.from_rational_approx_to_sqrt_x,
        {"num_buffers": 2},
    ),
    "BufferedToeplitz.toeplitz_coefs": (STRATEGY.toeplitz_coefs, {"n": 3}),
    "BufferedToeplitz.materialize": (STRATEGY.materialize, {"n": 3}),
    "buffered_toeplitz.optimize": (
        buffered_toeplitz.optimize,
        {
            "n": 4,
            "min_sep": 1,
            "max_participations": 1,
            "error": "max",
            "min_buffers": 1,
            "max_buffers": 1,
            "rtol": 1.01,
            "client": None,
        },
    ),
    "design.noising_matrix_of": (design.noising_matrix_of, {"given": PREFIX}),
    "Client.create_session": (created, {"matrix": PREFIX, "tree": TREE, "source": None, **CREATE}),
    "Client.open_session": (with_client("open_session"), {"name": "gone", "tree": None, "fetch_ahead": True}),
    "Client.get_session": (with_client("get_session"), {"name": "gone"}),
    "Client.get_shards": (with_client("get_shards"), {"name": "gone"}),
    "Client.delete_session": (with_client("delete_session"), {"name": "gone"}),
    "Session.fetch": (with_session("fetch"), {"step": 1}),
    "Session.multiply_next": (with_session("multiply_next", noised.Input()), {"tree": TREE, "step": 0}),
    "Session.privatize": (with_session("privatize", noised.Privatize(1.0)), {"gradients": TREE, "step": 0}),
    "Session.rewind": (
        with_session("rewind"),
        {"step": 0, "allow_divergence": False, "on_progress": None},
    ),
    "noised.jax.privatizer": (
        stepped_jax,
        {
            "noising_matrix": PREFIX,
            "stddev": 1.0,
            "client": None,
            "source": "gaussian",
            "dtype": None,
            "resume_from": None,
            "allow_divergence": False,
            "params": TREE,
            "gradients": TREE,
            **NOISE,
            **SESSION,
            "shard": None,
        },
    ),
    "noised.jax.gaussian_privatizer": (noised.jax.gaussian_privatizer, {"stddev": 1.0}),
    "noised.jax.shard": (noised.jax.shard, {"cut": "lanes"}),
    "noised.torch.Privatizer": (
        stepped,
        {
            "parameters": model(),
            "noising_matrix": PREFIX,
            "stddev": 1.0,
            "client": None,
            "source": "gaussian",
            "missing_as_zero": True,
            "only_rank": False,
            **NOISE,
            **SESSION,
        },
    ),
    "noised.torch.Privatizer, of a session": (
        lambda session: noised.torch.Privatizer(model(), session=session),
        {"session": 5},
    ),
    "noised.torch.ShardPrivatizer": (
        stepped_shard,
        {
            "parameters": model(),
            "noising_matrix": PREFIX,
            "stddev": 1.0,
            "client": None,
            "source": "gaussian",
            "shard": noised.Shard(0, 1),
            "dtype": None,
            "pad_to": None,
            "gradient": None,
            **NOISE,
            **SESSION,
        },
    ),
    "noised.torch.replace_opacus_noise": (
        noised.torch.replace_opacus_noise,
        {"optimizer": 5, "noising_matrix": PREFIX},
    ),
    "noised.torch.shard": (noised.torch.shard, {"group": None, "cut": "lanes"}),
    "Privatizer.load_state_dict": (
        loaded,
        {"state_dict": None, "noised": 1, "session": b"", "leaves": [], "made_for": None},
    ),
}
#: What takes no argument that could be wrong, or is told of by what is above.
EXEMPT = {
    "noised.Account",
    "noised.Calibration",
    "noised.Client",
    "noised.Design",
    "noised.Input",
    "noised.NoisedError",
    "noised.Recommendation",
    "noised.Session",
    "noised.SessionInfo",
    "noised.identity",
    "noised.prefix_sum",
}


def test_every_public_function_is_here() -> None:
    public = {f"noised.{name}" for name in noised.__all__ if callable(getattr(noised, name))}
    for module in (streaming_matrix, toeplitz, banded, buffered_toeplitz):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                short = module.__name__.removeprefix("noised.")
                public.add(f"noised.{name}" if name in noised.__all__ else f"{short}.{name}")
    public |= {f"noised.jax.{name}" for name in ("privatizer", "gaussian_privatizer", "shard")}
    public |= {f"noised.torch.{name}" for name in noised.torch.__all__ if name[0].islower() or "Priv" in name}
    assert public - CALLS.keys() - EXEMPT == set()


def error_of(call: Callable[..., Any], arguments: dict[str, Any]) -> Exception | None:
    """What a call raises."""
    try:
        call(**arguments)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_what_breaks_a_rule_is_told_by_name(name: str) -> None:
    call, good = CALLS[name]
    for argument in good:
        for odd in ODD:
            if argument == "on_progress" and callable(odd):
                # What it raises is its own.
                continue
            raised = error_of(call, {**good, argument: odd})
            said = f"{name}: {argument}={type(odd).__name__} {shown(odd)}: {type(raised).__name__}: {raised}"
            assert isinstance(raised, (NoisedError, type(None))), said
            if isinstance(raised, InvalidArgumentError):
                assert raised.field, said
                assert raised.rule, said
                assert len(str(raised)) < 1000, said


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.filterwarnings("ignore")
def test_and_so_are_several_at_once(seed: int) -> None:
    chosen = random.Random(seed)
    for name, (call, good) in CALLS.items():
        odd = {
            argument: chosen.choice(ODD)
            for argument in good
            if chosen.random() < 0.4 and argument != "on_progress"
        }
        raised = error_of(call, {**good, **odd})
        said = f"{name}: {sorted(odd)}: {type(raised).__name__}: {raised}"
        assert isinstance(raised, (NoisedError, type(None))), said


@pytest.mark.parametrize(
    "number",
    [
        8,
        8.0,
        np.float64(8),
        np.float16(8),
        np.int8(8),
        np.uint64(8),
        np.array(8),
        np.array(8.0),
        torch.tensor(8),
        torch.tensor(8.0),
        Decimal(8),
        Fraction(16, 2),
        1000 / 125,
        ml_dtypes.bfloat16(8),
    ],
    ids=lambda number: f"{type(number).__name__} {number}",
)
def test_whole_numbers_may_be_written_in_any_way(number: Any) -> None:
    assert noised.Participation(min_sep=number) == noised.Participation(min_sep=8)
    assert type(noised.Participation(min_sep=number).min_sep) is int
    shard = noised.Shard(1, number)
    with noised.connect().create_session(PREFIX, np.zeros(16, np.float32), shard=shard) as session:
        assert session.lanes == range(2, 4)
    assert PREFIX.materialize(number).shape == (8, 8)
    assert noised.optimize("banded_toeplitz", number, bands=2) == noised.optimize(
        "banded_toeplitz", 8, bands=2
    )
    with noised.connect().create_session(PREFIX, TREE, noised.Gaussian(number), horizon=number) as session:
        assert session.horizon == 8
    with stepping(horizon=number) as privatizer:
        assert privatizer.session.horizon == 8


def stepping(**arguments: Any) -> noised.torch.Privatizer:
    return noised.torch.Privatizer(model(), PREFIX, 1.0, **arguments)


@pytest.mark.parametrize(
    ("call", "field", "rule"),
    [
        (lambda: created(source=loose.Gaussian("1.5")), "source.stddev", "must be a number, found str"),
        (lambda: created(source=loose.Gaussian(True)), "source.stddev", "must be a number, found bool"),
        (
            lambda: created(source=loose.Gaussian(np.array([1.5]))),
            "source.stddev",
            "must be a number, found ndarray",
        ),
        (
            lambda: created(source=loose.Gaussian(10**400)),
            "source.stddev",
            "must fit a float64, found a whole number of 1329 bits",
        ),
        (
            lambda: loose.calibrate(1.0, epsilon=b"5", delta=1e-5),
            "epsilon",
            "must be a number, found bytes",
        ),
        (
            lambda: loose.Participation(min_sep=2.5),
            "min_sep",
            "must be a whole number, found 2.5",
        ),
        (lambda: loose.Participation(epochs=True), "epochs", "must be a whole number, found bool"),
        (lambda: loose.Participation(epochs=-1), "epochs", "must be from 0 to 2^64 - 1, found -1"),
        (
            lambda: created(source=loose.Privatize(1.0, noise_key="0" * 32)),
            "source.noise_key",
            "must be bytes, found str",
        ),
        (lambda: created(shard=loose.Shard(0, 2, 1)), "shard.cut", "must be lanes or leaves, found int"),
        (
            lambda: created(shard=loose.Shard(0, 1 << 32)),
            "shard.count",
            "must be from 0 to 2^32 - 1, found 4294967296",
        ),
        (
            lambda: loose.optimize(["dense"], 4),
            "family",
            "must be banded_toeplitz, banded_inverse_toeplitz, buffered_toeplitz, column_normalized_banded or dense, "
            "found list",
        ),
        (
            lambda: loose.Tls(b"ca.pem"),
            "tls.ca",
            "must be a path: a string or an os.PathLike of one, found bytes",
        ),
        (lambda: loose.Tls("ca.pem", cert=""), "tls.cert", "must name a file, found ''"),
        (lambda: loose.Tls("ca.pem", cert="a.pem"), "tls.key", "must be set beside tls.cert"),
        (lambda: loose.Tls("ca.pem", server_name=5), "tls.server_name", "must be a string, found int"),
        (lambda: loose.connect("https://a:1", tls="ca.pem"), "tls", "must be a noised.Tls, found str"),
        (lambda: created(resume="no"), "resume", "must be True or False, found str"),
        (lambda: created(start_noise_over=1), "start_noise_over", "must be True or False, found int"),
        (lambda: created(noise_state="gone"), "noise_state", "must be kept or replayed, found 'gone'"),
        (lambda: created(id="\ud800"), "id", "must be Unicode, found '\\ud800'"),
        (lambda: stepping(horizon="x"), "horizon", "must be a whole number, found str"),
        (lambda: stepping(horizn=5), "horizn", "is no option of a session"),
        (
            lambda: loose.StreamingMatrix.from_json('{"kind": "toeplitz", "coef": [1], "coef": [2]}'),
            "matrix",
            "is no JSON: the name 'coef' is twice in an object",
        ),
        (lambda: loose.dense([["1", 0], [0, 1]]), "rows", "must be numbers, found list"),
        (lambda: loose.diagonal([True, 1.0]), "diag", "must be numbers, found list"),
        (lambda: PREFIX * "2", "factor", "must be a number, found str"),
    ],
)
def test_the_rule_says_what_was_found(call: Any, field: str, rule: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        call()
    assert (raised.value.field, raised.value.rule) == (field, rule)


async def ask(**arguments: Any) -> None:
    client = await noised.aio.connect()
    given: dict[str, Any] = {"matrix": PREFIX, "tree": TREE} | arguments
    async with await client.create_session(**given):
        pass


@pytest.mark.filterwarnings("ignore")
def test_asyncio_as_well() -> None:
    import asyncio  # noqa: PLC0415

    async def all_of_them() -> None:
        for argument, odd in [(name, odd) for name in CREATE for odd in ODD]:
            try:
                await ask(**{argument: odd})
            except NoisedError:
                continue
        with pytest.raises(InvalidArgumentError, match="client"):
            await noised.aio.resume(b"", client=5)  # type: ignore[arg-type]

    asyncio.run(all_of_them())


def test_an_optimizer_of_jax_is_no_privatizer_of_torch() -> None:
    with pytest.raises(InvalidArgumentError, match="parameters"):
        noised.torch.Privatizer(optax.sgd(0.1), PREFIX, 1.0)
