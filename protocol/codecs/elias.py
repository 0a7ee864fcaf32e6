"""Elias gamma code (Elias 1975): floor(log2 n) zeros, then the binary digits of n, which begin with a one.

Levels are numbered by how common they are: 0 → 1, -1 → 2, 1 → 3, -2 → 4, …; so a zero costs one bit, ±1 three.

The same bits stand here in two planes: first every code's zeros and its leading one, then every code's other digits.
The length is that of the code, and both planes are read for all numbers at once, which one stream would not allow.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from protocol.arrays import WireError
from protocol.codecs.bits import Numbers, Octets, dtype_for

_PREFIX = struct.Struct("<Q")  # bits of the first plane


def encode(levels: Numbers, most: int) -> list[bytes]:
    """Encode levels plus `most`, so 0 to 2·most."""
    level = levels.astype(np.int32) - np.int32(most)
    numbers = (np.abs(level) << 1) + (level >= 0)
    del level
    digits = (np.frexp(numbers.astype(np.float64))[1] - 1).astype(np.uint8)  # after the leading one
    ends = np.cumsum(digits + np.uint8(1), dtype=np.int64)
    first = np.zeros(int(ends[-1]), np.uint8)
    first[ends - 1] = 1
    return [_PREFIX.pack(len(first)), np.packbits(first).tobytes(), np.packbits(_spread(numbers, digits)).tobytes()]


def decode(data: Octets, count: int, most: int) -> Numbers:
    """Read so many levels plus `most`.

    Raises:
        WireError: not the code of so many levels.
    """
    (length,) = _PREFIX.unpack(data[: _PREFIX.size].data)
    longest = _digits(most)
    if not count <= length <= count * (longest + 1):
        raise WireError(f"{count} levels in {length} bits of Elias code")
    middle = _PREFIX.size + _octets(length)
    if len(data) != middle + _octets(length - count):
        raise WireError("Elias code of another length than it says")
    ends = np.flatnonzero(np.unpackbits(data[_PREFIX.size : middle]))
    if len(ends) != count or ends[-1] != length - 1:
        raise WireError("Elias code of another number of levels")
    gaps = np.diff(ends, prepend=-1)
    if gaps.max() > longest + 1:
        raise WireError("an Elias code beyond the highest level")
    digits = (gaps - 1).astype(np.uint8)
    del ends, gaps
    second = np.unpackbits(data[middle:])
    if second[length - count :].any():
        raise WireError("bits after the last level are set")
    numbers = _gathered(second, digits)
    if numbers.max() > 2 * most + 1:
        raise WireError("an Elias code beyond the highest level")
    half = (numbers >> 1).astype(np.int32)
    levels = np.where(numbers & 1, half, -half) + np.int32(most)
    return levels.astype(dtype_for((2 * most).bit_length()))


def bounds(count: int, most: int) -> tuple[int, int]:
    """Least and most bytes that so many levels take."""
    longest = _digits(most)
    return _PREFIX.size + _octets(count), _PREFIX.size + _octets(count * (longest + 1)) + _octets(count * longest)


def _digits(most: int) -> int:
    """Digits after the leading one of the highest number."""
    return (2 * most + 1).bit_length() - 1


def _octets(bits: int) -> int:
    return -(-bits // 8)


def _spread(numbers: npt.NDArray[np.int32], digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The last digits of every number, highest first, one after the other: a bit in each entry."""
    ends = np.cumsum(digits, dtype=np.int64)
    bits = np.zeros(int(ends[-1]), np.uint8)
    for bit in range(int(digits.max())):
        longer = np.flatnonzero(digits > bit)
        bits[ends[longer] - 1 - bit] = (numbers[longer] >> bit) & 1
    return bits


def _gathered(bits: npt.NDArray[np.uint8], digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Numbers from their last digits; the leading one is added."""
    ends = np.cumsum(digits, dtype=np.int64)
    numbers = np.uint32(1) << digits.astype(np.uint32)
    for bit in range(int(digits.max())):
        longer = np.flatnonzero(digits > bit)
        numbers[longer] |= bits[ends[longer] - 1 - bit].astype(np.uint32) << np.uint32(bit)
    return numbers
