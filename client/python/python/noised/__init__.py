"""Correlated noise for differentially private training.

    import noised

    client = noised.connect("localhost:7467")  # or "local:", which needs no server
    best = noised.recommend(1000, max_planes=4, participation=noised.Participation(min_sep=125)).best
    noise = noised.calibrate(best.sensitivity, epsilon=4.0, delta=1e-6)
    source = noised.Privatize(noise.stddev)
    with client.create_session(best.noising_matrix, params, source, horizon=1000) as session:
        for gradients in training:
            noisy = session.privatize(gradients)

`noised.jax` and `noised.torch` are adapters for training loops, and `noised.aio` is for asyncio; each is imported when it
is asked for. The logger `noised` of `logging` tells of calls that are tried again.
"""

import logging

from noised import _noised, banded, buffered_toeplitz, design, errors, streaming_matrix, toeplitz
from noised._info import SessionInfo
from noised._leaves import ShapeDtype
from noised._path import ExtendedPath
from noised.accounting import Account, Sampling, account, epsilon
from noised.buffered_toeplitz import BufferedToeplitz
from noised.client import Client, connect, resume
from noised.design import (
    Calibration,
    Design,
    Recommendation,
    Sensitivity,
    calibrate,
    optimize,
    query_errors,
    recommend,
    sensitivity,
)
from noised.errors import NoisedError
from noised.participation import Participation
from noised.session import Session
from noised.sources import Gaussian, Input, Privatize, Shard
from noised.streaming_matrix import (
    StreamingMatrix,
    dense,
    diagonal,
    identity,
    momentum_sgd_matrix,
    multiply_streaming_matrices,
    prefix_sum,
    scale_rows_and_columns,
)
from noised.tls import Tls

#: The version of this package, which is that of the server it was made with.
__version__: str = _noised.__version__

__path__ = ExtendedPath(__path__)
# The package logs nothing unless the program sets up a handler.
logging.getLogger("noised").addHandler(logging.NullHandler())

__all__ = [
    "Account",
    "BufferedToeplitz",
    "Calibration",
    "Client",
    "Design",
    "Gaussian",
    "Input",
    "NoisedError",
    "Participation",
    "Privatize",
    "Recommendation",
    "Sampling",
    "Sensitivity",
    "Session",
    "SessionInfo",
    "ShapeDtype",
    "Shard",
    "StreamingMatrix",
    "Tls",
    "account",
    "accounting",
    "banded",
    "buffered_toeplitz",
    "calibrate",
    "connect",
    "dense",
    "design",
    "diagonal",
    "epsilon",
    "errors",
    "identity",
    "momentum_sgd_matrix",
    "multiply_streaming_matrices",
    "optimize",
    "prefix_sum",
    "query_errors",
    "recommend",
    "resume",
    "scale_rows_and_columns",
    "sensitivity",
    "streaming_matrix",
    "toeplitz",
]
