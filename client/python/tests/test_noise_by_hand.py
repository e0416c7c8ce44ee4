"""The page that tells how noise is made is enough to make it: a program written from it gives the server's bits."""

from __future__ import annotations

import decimal
import math
import random
from typing import Any

import numpy as np
import pytest
from noise_by_hand import F32, F64, Format, noise_key, normals, pair, radius_of, uniform

import noised

KEY = bytes(range(1, 33))


def check(session: noised.Session, form: Format, stddev: float, key: bytes = KEY) -> None:
    """The first steps of a session whose matrix is the identity."""
    lanes = session.lanes
    for step in range(3):
        found = np.asarray(session.fetch()).tolist()
        assert found == normals(form, key, step, lanes, stddev), f"step {step}"


@pytest.mark.parametrize("form", [F32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize("stddev", [1.0, 0.1, 1e-3, 12345.678, 0.0])
def test_a_given_key(anywhere: noised.Client, form: Format, stddev: float) -> None:
    tree = noised.ShapeDtype((75,), "float32" if form is F32 else "float64")
    source = noised.Gaussian(stddev, noise_key=KEY)
    with anywhere.create_session(noised.identity(), tree, source) as session:
        check(session, form, stddev)


@pytest.mark.parametrize("form", [F32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize(("index", "count"), [(1, 7), (12_345, 1 << 24), ((1 << 24) - 1, 1 << 24)])
def test_a_part_of_a_large_tree(form: Format, index: int, count: int) -> None:
    lanes = 1 << 30 if count > 7 else 700
    tree = noised.ShapeDtype((lanes,), "float32" if form is F32 else "float64")
    source = noised.Gaussian(2.5, noise_key=KEY)
    shard = noised.Shard(index, count)
    with noised.connect("local:").create_session(noised.identity(), tree, source, shard=shard) as session:
        check(session, form, 2.5)


def test_a_late_step() -> None:
    source = noised.Gaussian(1.0, noise_key=KEY)
    tree = noised.ShapeDtype((33,), "float32")
    with noised.connect("local:").create_session(
        noised.identity(), tree, source, fetch_ahead=False, noise_state="replayed"
    ) as session:
        for _ in range(300):
            found = session.fetch()
        assert found.tolist() == normals(F32, KEY, 299, range(33), 1.0)


def test_a_key_that_is_derived() -> None:
    master = bytes(range(100, 132))
    client = noised.connect("local:", master_key=master)
    source = noised.Gaussian(0.5, noise_id="by-hand/1")
    with client.create_session(noised.identity(), noised.ShapeDtype((40,), "float32"), source) as session:
        fingerprint = bytes.fromhex(session._fingerprints()[0])
        check(session, F32, 0.5, noise_key(master, "by-hand/1", fingerprint))


def test_a_matrix_and_a_format_come_after() -> None:
    source: Any = noised.Privatize(1.0, noise_key=KEY, answer_dtype="float32")
    zeros = np.zeros(40, np.float16)
    with noised.connect("local:").create_session(noised.prefix_sum(), zeros, source) as session:
        total = np.zeros(40, np.float32)
        for step in range(4):
            total += np.array(normals(F32, KEY, step, range(40), 1.0), np.float32)
            np.testing.assert_array_equal(session.privatize(zeros), total)


def words(form: Format) -> list[int]:
    """Words whose radius is of every size: many are near the ends, where the largest errors are."""
    rng = random.Random(5)
    width = form.word_bits
    near_the_ends = [rng.getrandbits(width) >> rng.randrange(width) for _ in range(300)]
    ends = [0, 1, (1 << width) - 1, (1 << width) - 2]
    return ends + near_the_ends + [(1 << width) - 1 - word for word in near_the_ends]


@pytest.mark.parametrize(
    ("form", "relative", "digits"), [(F32, 2e-7, 24), (F64, 1e-15, 53)], ids=["f32", "f64"]
)
def test_the_error_of_a_radius_is_what_the_page_says(form: Format, relative: float, digits: int) -> None:
    decimal.getcontext().prec = 50
    worst = 0.0
    for word in words(form):
        exact, u = uniform(form, word, word & 0xFF)
        true = (-2 * (decimal.Decimal(exact.numerator) / decimal.Decimal(exact.denominator)).ln()).sqrt()
        r = radius_of(form, u)
        error = abs(float(decimal.Decimal(r) - true))
        assert error <= relative * r + 2.0 ** (1 - digits) / r, f"word {word:#x}"
        worst = max(worst, error / r)
    # Relative to the radius there is no small bound: near u = 1 all of a small radius is the rounding of u.
    assert worst > 0.4


def test_the_error_of_a_value_is_what_the_page_says() -> None:
    rng = random.Random(6)
    for word in words(F32):
        angle = rng.getrandbits(32)
        exact, _ = uniform(F32, word, angle)
        true = math.sqrt(-2 * math.log1p(float(exact - 1)))
        theta = 2 * math.pi * (((angle >> 8) + 0.5) / 2**24) - math.pi / 4
        values = pair(F32, word, angle, 1.0)
        r = math.hypot(*values)
        for value, expected in zip(values, (math.cos(theta), math.sin(theta)), strict=True):
            assert abs(value - true * expected) <= 4e-7 * r + 2.0**-23 / r
