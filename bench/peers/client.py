"""noised's Python client, and a bare call of grpcio's beside it, timed on request.

Reads one JSON object a line from standard input and answers each with one line. `set_up` connects and makes a session;
`steps` times some, each after a pause where one is asked for.
"""
# ruff: noqa: PLC0415  A process imports what it measures, and imports are measured.

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Step = Callable[[], object]


def noised_step(request: dict[str, Any]) -> Step:
    """A step of a session: `fetch`, or `multiply_next` of a tree of so many leaves alike."""
    import numpy as np

    import noised

    leaves = request["leaves"]
    values = ((np.arange(request["lanes"]) % 1000) * 0.002 - 1.0).astype(np.float32)
    tree = {f"leaf{i:03}": part for i, part in enumerate(np.split(values, leaves))} if leaves > 1 else values
    matrix = noised.StreamingMatrix(request["matrix"])
    client = noised.connect(request["target"])
    if request["call"] == "fetch":
        source = noised.Gaussian(stddev=1.0)
        fetch_ahead = request["fetch_ahead"]
        return client.create_session(matrix, tree, source, fetch_ahead=fetch_ahead).fetch
    session = client.create_session(matrix, tree)
    return lambda: session.multiply_next(tree)


def grpcio_step(request: dict[str, Any]) -> Step:
    """A unary call of the echo, with bytes as they are: the message that they are is made and read by nobody."""
    import grpc  # type: ignore[import-untyped]

    channel = grpc.insecure_channel(request["target"])
    call = channel.unary_unary("/echo.Echo/Unary", request_serializer=None, response_deserializer=None)
    length = 4 * request["lanes"]
    # Field 1, as bytes, of this length.
    tag = bytes([0x0A, length & 0x7F | 0x80, length >> 7])
    payload = tag + bytes(length)

    def step() -> None:
        answer = call(payload)
        if len(answer) != len(payload):
            raise ValueError("the echo lost bytes")

    return step


def imports() -> list[float]:
    """The seconds that NumPy takes to be imported, and noised after it."""
    start = time.perf_counter()
    import numpy as np  # noqa: F401

    middle = time.perf_counter()
    import noised  # noqa: F401

    return [middle - start, time.perf_counter() - middle]


def timed(step: Step, count: int, pause: float) -> list[float]:
    seconds = []
    answer = None
    for _ in range(count):
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        # The last answer is let go of once this one is there, as a trainer does.
        answer = step()
        seconds.append(time.perf_counter() - start)
    del answer
    return seconds


def main() -> None:
    set_up = {"noised": noised_step, "grpcio": grpcio_step}
    step: Step | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if request["do"] == "imports":
                answer = {"seconds": imports()}
            elif request["do"] == "set_up":
                step = set_up[sys.argv[1]](request)
                timed(step, 2, 0.0)
            elif step is not None:
                answer = {"seconds": timed(step, request["count"], request.get("pause", 0.0))}
        # Whatever it is, it is told.
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
