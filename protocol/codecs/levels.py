"""From levels to bytes and back: what the setting `codec-entropy` chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocol.arrays import WireError
from protocol.codecs import elias, ranges
from protocol.codecs.bits import Numbers, Octets, pack, packed_length, unpack


@dataclass(frozen=True, slots=True)
class Coding:
    """One way to write levels -s to s, given as 0 to 2s.

    Attributes:
        encode: (levels, s) → pieces of the payload.
        decode: (payload, number of levels, s) → levels; WireError if it is anything else.
        bounds: (number of levels, s) → least and most bytes.
    """

    encode: Callable[[Numbers, int], list[bytes]]
    decode: Callable[[Octets, int, int], Numbers]
    bounds: Callable[[int, int], tuple[int, int]]


def width(most: int) -> int:
    """Bits of a level at fixed width: ceil(log2(s + 1)) and a sign, which is ceil(log2(2s + 1))."""
    return (2 * most).bit_length()


def _pack(levels: Numbers, most: int) -> list[bytes]:
    return [pack(levels, width(most)).tobytes()]


def _unpack(data: Octets, count: int, most: int) -> Numbers:
    levels = unpack(data, count, width(most))
    if levels.max() > 2 * most:
        raise WireError(f"a level beyond {most}")
    return levels


def _packed(count: int, most: int) -> tuple[int, int]:
    length = packed_length(count, width(most))
    return length, length


CODINGS = {
    "fixed": Coding(_pack, _unpack, _packed),
    "elias": Coding(elias.encode, elias.decode, elias.bounds),
    "range": Coding(ranges.encode, ranges.decode, ranges.bounds),
}


def entropy_bytes(levels: Numbers) -> float:
    """Empirical entropy of the levels, all of them together, in bytes."""
    counts = _counts(levels)
    seen = counts[counts > 0].astype(np.float64)
    return float(len(levels) * np.log2(len(levels)) - (seen * np.log2(seen)).sum()) / 8


def _counts(levels: Numbers) -> npt.NDArray[np.int64]:
    """How often each level occurs, in any order."""
    if levels.dtype != np.uint8:  # a histogram of a million levels would be larger than many a part
        return np.unique(levels, return_counts=True)[1]
    if len(levels) < 1 << 16:
        return np.bincount(levels)
    even = len(levels) // 2 * 2  # counted in pairs, which halves the work
    pairs = np.bincount(levels[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts: npt.NDArray[np.int64] = pairs.sum(0) + pairs.sum(1) + np.bincount(levels[even:], minlength=256)
    return counts
