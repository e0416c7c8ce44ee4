"""Writes noise.json: normals of the generator, computed by other means than noised's.

The construction is that of the page of `noised::noise`: words from AES-256 in counter mode under a BLAKE3 subkey, pairs of
words to pairs of normals by the Box-Muller transform. Here logarithm, square root and circle are computed in 50 digits.

    pip install blake3 cryptography mpmath
    python tests/golden/make_noise.py > tests/golden/noise.json
"""

import json

import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
import mpmath

mpmath.mp.dps = 50

GROUP = 32
KEY = bytes(range(32))
CASES = [(0, 0, 64), (5, 1_000_000_007, 8), (1 << 40, (1 << 40) - 40, 40)]


def words(step, group, word_bytes):
  subkey = blake3.blake3(step.to_bytes(8, 'little'), key=KEY).digest()
  first = group * GROUP * word_bytes // 16
  encryptor = Cipher(algorithms.AES(subkey), modes.CTR(first.to_bytes(16, 'big'))).encryptor()
  stream = encryptor.update(bytes(GROUP * word_bytes))
  return [int.from_bytes(stream[i : i + word_bytes], 'little') for i in range(0, len(stream), word_bytes)]


def pair(radius, angle, word_bytes):
  """The first word and the low bits of the second make u, the high bits of the second the angle."""
  if word_bytes == 4:
    u, u_bits = radius << 8 | angle & 0xFF, 40
    turn, turn_bits = angle >> 8, 24
  else:
    u, u_bits = radius, 64
    turn, turn_bits = angle >> 11, 53
  r = mpmath.sqrt(-2 * mpmath.log((u + mpmath.mpf(1) / 2) / mpmath.mpf(2) ** u_bits))
  # Quarters of the circle are counted from an eighth before the first axis.
  theta = (turn + mpmath.mpf(1) / 2) / mpmath.mpf(2) ** turn_bits * 2 * mpmath.pi - mpmath.pi / 4
  return r * mpmath.cos(theta), r * mpmath.sin(theta)


def lane(step, index, word_bytes):
  group, place = divmod(index, GROUP)
  of_group = words(step, group, word_bytes)
  half = GROUP // 2
  i = place % half
  return pair(of_group[i], of_group[half + i], word_bytes)[place // half]


def main():
  cases = [
      {
          'step': step,
          'first_lane': first,
          'f32': [float(lane(step, i, 4)) for i in range(first, first + count)],
          'f64': [float(lane(step, i, 8)) for i in range(first, first + count)],
      }
      for step, first, count in CASES
  ]
  print(json.dumps({'key': KEY.hex(), 'cases': cases}, indent=1))


if __name__ == '__main__':
  main()
