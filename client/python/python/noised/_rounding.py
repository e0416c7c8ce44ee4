"""Whether noise fits the gradients that it is added to, where these have less range than the noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noised import _noised
from noised.client import _Description
from noised.streaming_matrix import StreamingMatrix

#: Formats, from the largest range to the smallest.
_BY_RANGE = ("f64", "f32", "bf16", "f16")


def description_of(matrix: StreamingMatrix, stddev: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """How large the noise of a session is that is made with these options."""
    return {
        "matrix": matrix.to_json(),
        "stddev": stddev,
        "precision": options.get("precision"),
        "horizon": options.get("horizon"),
    }


def check_rounded(formats: Iterable[tuple[str, str]], made_for: Callable[[], Mapping[str, Any]]) -> None:
    """Refuses noise that fits its own format and may be infinite in that of a gradient, to which the sum is rounded.

    The rule is that of `Privatize`, whose noise may take half of the range: the gradient has the other half.

    Args:
        formats: Of every gradient, its format and the one in which a session answers: with noise, or with the sum.
        made_for: Gives the session's `matrix` as JSON, `stddev`, `precision` and `horizon`. A matrix may be long, and is
            asked for where a gradient has less range than its noise.

    Raises:
        InvalidArgumentError: On `source.stddev`, with the largest one that fits.
    """
    found = set(formats)
    narrower = {name for name, answer in found if _BY_RANGE.index(name) > _BY_RANGE.index(answer)}
    if not narrower:
        return
    session = made_for()
    is_wide = any("f64" in pair for pair in found)
    description = _Description(
        matrix=session["matrix"],
        leaves=[(name, name, (1,)) for name in sorted(narrower)],
        shard=None,
        cut="lanes",
        source="privatize",
        stddev=session["stddev"],
        noise_id=None,
        noise_key=None,
        answer_dtype=None,
        precision=session["precision"] or ("f64" if is_wide else None),
        horizon=session["horizon"],
        id="",
        resume=False,
        must_exist=False,
        start_noise_over=False,
        lookahead=None,
        noise_state=None,
    )
    _noised.check_session(description)
