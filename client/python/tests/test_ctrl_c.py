"""A Ctrl-C at every line of a step: the state of a session can be had all the same, and the noise goes on from there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from conftest import settle

import noised

KEY = bytes(range(32))
PARAMS = noised.ShapeDtype((40,), "float32")
PACKAGE = str(Path(noised.__file__).parent)
MATRIX = noised.BufferedToeplitz.build([0.9], [0.1]).inverse_as_streaming_matrix()


def interrupt(call: Callable[[], object], line: int) -> bool:
    """Whether a call has so many lines in this package that it was interrupted before the one of that number."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def stepper(session: noised.Session) -> Callable[[], Any]:
    """What takes a step, with the same gradient for the same step."""
    if session.source == "gaussian":
        return session.fetch
    return lambda: session.privatize(np.full(40, session.step, np.float32))


@pytest.mark.parametrize(
    ("source", "ahead"),
    [(noised.Gaussian, True), (noised.Gaussian, False), (noised.Privatize, False)],
    ids=["gaussian, ahead", "gaussian", "privatize"],
)
def test_a_state_after_a_ctrl_c(anywhere: noised.Client, source: Any, ahead: bool) -> None:
    made_for = source(1.0, noise_key=KEY)
    with anywhere.create_session(MATRIX, PARAMS, made_for) as whole:
        expected = [stepper(whole)() for _ in range(5)]
    lines, steps = 0, set()
    is_interrupted = True
    while is_interrupted:
        lines += 1
        session = anywhere.create_session(MATRIX, PARAMS, made_for, fetch_ahead=ahead)
        step = stepper(session)
        np.testing.assert_array_equal(step(), expected[0])
        settle(session)
        is_interrupted = interrupt(step, lines)
        if session._ahead is not None and (request := session._ahead._mailbox.request) is not None:
            # What is not in the queue yet is put there by the next call.
            session._ahead._queue(request)
            settle(session)
        at = session.step
        steps.add(at)
        assert at in (1, 2)
        state = session.state()
        # This handle goes on, and so does what is resumed.
        np.testing.assert_array_equal(step(), expected[at])
        assert session.step == at + 1
        settle(session)
        with noised.resume(state, PARAMS, client=anywhere) as resumed:
            assert resumed.step == at
            for t in (at, at + 1):
                np.testing.assert_array_equal(stepper(resumed)(), expected[t])
        session.delete()
    # Lines before the step is counted, and lines after it.
    assert steps == {1, 2}
    assert lines > 15


def test_a_state_takes_no_step_from_another_handle(anywhere: noised.Client) -> None:
    name = "test-state-of-an-old-handle"
    old = anywhere.create_session(MATRIX, PARAMS, noised.Gaussian(1.0), id=name)
    for _ in range(2):
        old.fetch()
    settle(old)
    # As a Ctrl-C leaves it: two steps behind the session, where another handle goes back by as many and takes them.
    old._uncount(1)
    new = anywhere.open_session(name, PARAMS, fetch_ahead=False)
    new.rewind(1)
    used = [new.fetch(), new.fetch()]
    with pytest.raises(noised.errors.WrongStepError):
        old.state()
    assert anywhere.get_session(name)["next_step"] == 3
    old.close()
    used.append(new.fetch())
    assert len({noise.tobytes() for noise in used}) == 3
    new.delete()
