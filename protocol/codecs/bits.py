"""Whole numbers of a fixed number of bits, packed without gaps: the lowest bits first."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.arrays import WireError

Numbers = npt.NDArray[Any]  # uint8 or uint32, see `dtype_for`
Octets = npt.NDArray[np.uint8]

MOST_BITS = 32
# Numbers packed at a time: what passes through fits a core's own cache.
_CHUNK = 1 << 16


def packed_length(count: int, width: int) -> int:
    """Bytes of so many numbers."""
    return -(-count * width // 8)


def dtype_for(width: int) -> type[np.uint8] | type[np.uint32]:
    """The narrower of the two types that numbers of this width are held in."""
    return np.uint8 if width <= 8 else np.uint32


def pack(numbers: Numbers, width: int) -> Octets:
    """Pack numbers below 2^width.

    The pattern repeats after lcm(width, 8) bits; each byte of a period is put together from all periods at once.
    """
    if width == 8:
        return numbers.astype(np.uint8, copy=False)
    per, octets = _period(width)
    whole = len(numbers) // per * per
    out = np.empty(packed_length(len(numbers), width), np.uint8)
    for start in range(0, whole, _CHUNK):  # a multiple of every period's numbers
        stop = min(start + _CHUNK, whole)
        _pack(numbers[start:stop].reshape(-1, per), width, out[start * width // 8 : stop * width // 8], octets)
    if whole < len(numbers):
        rest = np.zeros((1, per), numbers.dtype)
        rest[0, : len(numbers) - whole] = numbers[whole:]
        last = np.empty(octets, np.uint8)
        _pack(rest, width, last, octets)
        out[whole * width // 8 :] = last[: len(out) - whole * width // 8]
    return out


def unpack(data: Octets, count: int, width: int) -> Numbers:
    """Read so many numbers.

    Raises:
        WireError: bits after the last number are not zero, so nobody packed this.
    """
    if width == 8:
        return data
    per, octets = _period(width)
    out: Numbers = np.empty(count, dtype_for(width))
    whole = count // per * per
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        _unpack(data[start * width // 8 : stop * width // 8].reshape(-1, octets), width, out[start:stop], per)
    if whole < count:
        last = np.zeros((1, octets), np.uint8)
        rest = data[whole * width // 8 :]
        last[0, : len(rest)] = rest
        numbers: Numbers = np.empty(per, out.dtype)
        _unpack(last, width, numbers, per)
        out[whole:] = numbers[: count - whole]
        if numbers[count - whole :].any():
            raise WireError("bits after the last number are set")
    return out


def _period(width: int) -> tuple[int, int]:
    """Numbers and bytes after which the pattern repeats."""
    common = gcd(width, 8)
    return 8 // common, width // common


def _pack(rows: Numbers, width: int, out: Octets, octets: int) -> None:
    columns = out.reshape(-1, octets)
    for k in range(octets):
        first, last = 8 * k // width, (8 * k + 7) // width
        for j in range(first, last + 1):
            shift = j * width - 8 * k  # where number j begins, seen from byte k
            moved = rows[:, j] << rows.dtype.type(shift) if shift >= 0 else rows[:, j] >> rows.dtype.type(-shift)
            if j == first:
                columns[:, k] = moved.astype(np.uint8)
            else:
                columns[:, k] |= moved.astype(np.uint8)


def _unpack(columns: Octets, width: int, out: Numbers, per: int) -> None:
    rows, kind = out.reshape(-1, per), out.dtype.type
    mask = kind((1 << width) - 1)
    for j in range(per):
        first, last = j * width // 8, (j * width + width - 1) // 8
        for k in range(first, last + 1):
            shift = 8 * k - j * width  # where byte k begins, seen from number j
            octet = columns[:, k].astype(out.dtype, copy=False)
            moved = octet << kind(shift) if shift >= 0 else octet >> kind(-shift)
            if k == first:
                rows[:, j] = moved
            else:
                rows[:, j] |= moved
        rows[:, j] &= mask
