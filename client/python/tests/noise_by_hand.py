"""The noise of docs/noise.md, "The construction to the bit", written from that page alone.

The standard library is all that it takes: no line of the server's program is in it. Numbers are rounded to binary32 and
binary64 by exact fractions, so it is slow, and right on every machine.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

_MASK = 0xFFFFFFFF

# BLAKE3, of inputs of at most 1024 bytes: one chunk.

_IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
_CHUNK_START, _CHUNK_END, _ROOT, _KEYED, _CONTEXT, _MATERIAL = 1, 2, 8, 16, 32, 64


def _rotate(word: int, by: int) -> int:
    return (word >> by | word << (32 - by)) & _MASK


def _mix(v: list[int], places: tuple[int, int, int, int], x: int, y: int) -> None:
    a, b, c, d = places
    for word, by_d, by_b in ((x, 16, 12), (y, 8, 7)):
        v[a] = (v[a] + v[b] + word) & _MASK
        v[d] = _rotate(v[d] ^ v[a], by_d)
        v[c] = (v[c] + v[d]) & _MASK
        v[b] = _rotate(v[b] ^ v[c], by_b)


def _blake3(key: tuple[int, ...], flags: int, data: bytes) -> bytes:
    assert len(data) <= 1024
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    value = key
    for i, block in enumerate(blocks):
        of_block = flags
        of_block |= _CHUNK_START if i == 0 else 0
        of_block |= _CHUNK_END | _ROOT if i == len(blocks) - 1 else 0
        message = list(struct.unpack("<16I", block.ljust(64, b"\0")))
        v = [*value, *_IV[:4], 0, 0, len(block), of_block]
        for round_number in range(7):
            for k, places in enumerate(_COLUMNS_AND_DIAGONALS):
                _mix(v, places, message[2 * k], message[2 * k + 1])
            if round_number < 6:
                message = [message[j] for j in _PERMUTATION]
        value = tuple(v[j] ^ v[j + 8] for j in range(8))
    return struct.pack("<8I", *value)


def keyed_hash(key: bytes, data: bytes) -> bytes:
    """BLAKE3's keyed hash."""
    return _blake3(struct.unpack("<8I", key), _KEYED, data)


def derive_key(context: str, material: bytes) -> bytes:
    """BLAKE3's derivation of a key."""
    of_context = _blake3(_IV, _CONTEXT, context.encode())
    return _blake3(struct.unpack("<8I", of_context), _MATERIAL, material)


# AES-256 (FIPS 197).


def _times_two(byte: int) -> int:
    return (byte << 1 ^ (0x11B if byte & 0x80 else 0)) & 0xFF


def _s_box() -> list[int]:
    box = [0x63] * 256
    power = inverse = 1
    while True:
        # 3 generates the field: powers of it, and of its inverse, go round together.
        power = power ^ _times_two(power)
        for shift in (1, 2, 4):
            inverse ^= inverse << shift
        inverse = inverse & 0xFF ^ (0x09 if inverse & 0x80 else 0)
        turned = inverse
        for by in (1, 2, 3, 4):
            turned ^= (inverse << by | inverse >> (8 - by)) & 0xFF
        box[power] = turned ^ 0x63
        if power == 1:
            return box


_BOX = _s_box()


def _round_keys(key: bytes) -> list[bytes]:
    words = [key[i : i + 4] for i in range(0, 32, 4)]
    constant = 1
    for i in range(8, 60):
        word = words[-1]
        if i % 8 == 0:
            word = bytes(_BOX[byte] for byte in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = _times_two(constant)
        elif i % 8 == 4:
            word = bytes(_BOX[byte] for byte in word)
        words.append(bytes(a ^ b for a, b in zip(words[-8], word, strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]


def _encrypt(keys: list[bytes], block: bytes) -> bytes:
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for number, key in enumerate(keys[1:], 1):
        # Bytes through the box, rows turned: column by column, byte `r` of column `c` comes from column `c + r`.
        state = [_BOX[state[4 * ((c + r) % 4) + r]] for c in range(4) for r in range(4)]
        if number < len(keys) - 1:
            mixed = []
            for c in range(0, 16, 4):
                column = state[c : c + 4]
                for r in range(4):
                    a, b = column[r], column[(r + 1) % 4]
                    rest = column[(r + 2) % 4] ^ column[(r + 3) % 4]
                    mixed.append(_times_two(a) ^ _times_two(b) ^ b ^ rest)
            state = mixed
        state = [a ^ b for a, b in zip(state, key, strict=True)]
    return bytes(state)


def keystream(key: bytes, first_block: int, blocks: int) -> bytes:
    """AES-256 in counter mode, whose counter is the whole block, big endian, from 0."""
    keys = _round_keys(key)
    counters = range(first_block, first_block + blocks)
    return b"".join(_encrypt(keys, counter.to_bytes(16, "big")) for counter in counters)


# Numbers.


@dataclass(frozen=True)
class Format:
    """A binary format of IEEE 754, and the polynomials of the transform in it."""

    code: str
    digits: int
    word_bits: int
    high_bits: int
    angle_bits: int
    logarithm: tuple[float, ...]
    sine: tuple[float, ...]
    cosine: tuple[float, ...]

    def nearest(self, exact: Fraction) -> float:
        """The nearest number, ties to even. No number here is near the ends of the exponents."""
        if exact == 0:
            return 0.0
        exponent = abs(exact.numerator).bit_length() - exact.denominator.bit_length()
        if abs(exact) < Fraction(2) ** exponent:
            exponent -= 1
        quantum = Fraction(2) ** (exponent - self.digits + 1)
        return float(round(exact / quantum) * quantum)

    def of(self, number: float) -> float:
        """A number rounded."""
        return self.nearest(Fraction(number))

    def fma(self, a: float, b: float, c: float) -> float:
        """`a b + c`, rounded once."""
        return self.nearest(Fraction(a) * Fraction(b) + Fraction(c))

    def add(self, a: float, b: float) -> float:
        return self.nearest(Fraction(a) + Fraction(b))

    def times(self, a: float, b: float) -> float:
        return self.nearest(Fraction(a) * Fraction(b))

    def over(self, a: float, b: float) -> float:
        return self.nearest(Fraction(a) / Fraction(b))

    def root(self, a: float) -> float:
        """The square root, rounded once: that of binary64 has more than twice the digits of binary32."""
        return self.of(math.sqrt(a))

    def horner(self, coefficients: tuple[float, ...], x: float) -> float:
        value = self.of(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.fma(value, x, self.of(coefficient))
        return value

    def bits(self, number: float) -> int:
        width = self.word_bits // 8
        return int.from_bytes(struct.pack("<" + self.code, number), "little") & ((1 << 8 * width) - 1)

    def from_bits(self, bits: int) -> float:
        number: float = struct.unpack("<" + self.code, bits.to_bytes(self.word_bits // 8, "little"))[0]
        return number


F32 = Format(
    "f",
    24,
    32,
    24,
    22,
    (
        -0.07621762, 0.12904412, -0.13242983, 0.14181828, -0.16609084, 0.20001974, -0.25001583, 0.33333326,
        -0.49999988,
    ),
    (-0.004601658, 0.07968003, -0.64596346, math.pi / 2),
    (-2.4909278e-5, 9.1919636e-4, -0.020863475, 0.2536695, -1.2337005, 1.0),
)  # fmt: skip
F64 = Format(
    "d",
    53,
    64,
    32,
    51,
    (
        0.13087808615349658, 0.13268651335490803, 0.15386244631664286, 0.18181795541237478,
        0.22222222392732452, 0.2857142857079862, 0.40000000000000885, 0.6666666666666666,
    ),
    (
        -6.627430909221974e-10, 5.6919261501776874e-8, -3.5988427112896562e-6, 1.6044118472567214e-4,
        -0.004681754135314739, 0.07969262624616692, -0.6459640975062463, math.pi / 2,
    ),
    (
        6.513225393253984e-11, -6.386389120227318e-9, 4.710874326511298e-7, -2.5202042367762405e-5,
        9.192602748390895e-4, -0.02086348076335295, 0.25366950790104803, -1.2337005501361697, 1.0,
    ),
)  # fmt: skip

#: Lanes whose words lie together.
GROUP = 32


def uniform(form: Format, radius: int, angle: int) -> tuple[Fraction, float]:
    """The number that the radius is made of: exactly, and rounded as the transform does."""
    if form is F32:
        high, low, low_bits = radius >> 8, (radius & 0xFF) << 8 | angle & 0xFF, 16
    else:
        high, low, low_bits = radius >> 32, radius & _MASK, 32
    bits = form.high_bits + low_bits
    exact = (Fraction(2 * low + 1, 2) + (high << low_bits)) / 2**bits
    largest = 1.0 - 2.0**-form.digits
    return exact, min(form.nearest(exact), largest)


def logarithm(form: Format, u: float) -> float:
    """`ln u`."""
    place = form.bits(u) - form.bits(form.of(1 / math.sqrt(2)))
    exponent = place >> (form.digits - 1)
    f = form.add(form.from_bits(form.bits(u) - (exponent << form.digits - 1)), -1.0)
    if form is F32:
        one_plus = form.fma(form.times(f, f), form.horner(form.logarithm, f), f)
    else:
        s = form.over(f, form.add(2.0, f))
        z = form.times(s, s)
        r = form.horner(form.logarithm, z)
        one_plus = form.fma(-s, form.fma(-z, r, f), f)
    return form.fma(float(exponent), form.of(math.log(2)), one_plus)


def radius_of(form: Format, u: float) -> float:
    """`sqrt(-2 ln u)`."""
    return form.root(form.times(-2.0, logarithm(form, u)))


def pair(form: Format, radius: int, angle: int, stddev: float) -> tuple[float, float]:
    """Two normals of two words."""
    _, u = uniform(form, radius, angle)
    r = form.times(radius_of(form, u), form.of(stddev))
    width, shift = form.word_bits, form.word_bits - 2 - form.angle_bits
    fraction = angle >> shift & ((1 << form.angle_bits) - 1)
    # (fraction + 1/2) / 2^angle_bits - 1/2, which is exact.
    t = float(Fraction(2 * fraction + 1, 2 << form.angle_bits) - Fraction(1, 2))
    z = form.times(t, t)
    sine = form.times(form.horner(form.sine, z), t)
    cosine = form.horner(form.cosine, z)
    quadrant = angle >> width - 2
    first, second = [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)][quadrant]
    return form.times(r, first), form.times(r, second)


def step_key(key: bytes, step: int) -> bytes:
    """The key of the cipher at a step."""
    return keyed_hash(key, step.to_bytes(8, "little"))


def noise_key(master_key: bytes, noise_id: str, fingerprint: bytes) -> bytes:
    """The key of a noise that has a name."""
    context = "noised 2026 key of a noise from master key, noise_id and fingerprint"
    return derive_key(context, master_key + fingerprint + noise_id.encode())


def normals(form: Format, key: bytes, step: int, lanes: range, stddev: float) -> list[float]:
    """`z_step[lane]` of some lanes of the whole tree."""
    if stddev == 0:
        return [0.0] * len(lanes)
    group_bytes = GROUP * form.word_bits // 8
    first_group, end_group = lanes.start // GROUP, -(-lanes.stop // GROUP)
    blocks = group_bytes // 16
    stream = keystream(step_key(key, step), first_group * blocks, (end_group - first_group) * blocks)
    values: list[float] = []
    for start in range(0, len(stream), group_bytes):
        words = struct.unpack(f"<{GROUP}{'I' if form is F32 else 'Q'}", stream[start : start + group_bytes])
        pairs = [pair(form, words[i], words[GROUP // 2 + i], stddev) for i in range(GROUP // 2)]
        values += [first for first, _ in pairs] + [second for _, second in pairs]
    before = lanes.start - first_group * GROUP
    return values[before : before + len(lanes)]
