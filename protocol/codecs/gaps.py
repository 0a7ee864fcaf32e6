"""Sparse signs as bytes: the gaps between those that are not zero, Huffman-coded.

    symbol 2·z + (1 where negative), z = 0 to 126:  z zeros, then a sign
    symbol 254:                                     127 zeros

so a vector of -1, 0 and 1 that is mostly zeros is as many symbols as it has signs, and a code for whole gaps comes
within a percent of the entropy of its coordinates, which a code for single ones (at least a bit each) cannot.
The symbols are one raw Deflate stream (RFC 1951) of literals only, made and read by zlib, with a Huffman table for
about every 32 thousand of them. Zeros at the end are not written.

Deflate has many streams for the same bytes and compressors differ, so a reader takes any of them; what it holds in
memory is bounded by the number of coordinates all the same.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.arrays import WireError
from protocol.codecs.bits import Octets

Positions = npt.NDArray[np.signedinteger[Any]]
Negative = npt.NDArray[np.bool_]

_HOP = 127  # zeros of a symbol that has no sign
_HOPS = 2 * _HOP
_RAW, _MOST_MEMORY = -15, 9  # a stream without header and checksum (the frame has both); the longest blocks


class Writer:
    """Writes the signs of a vector, a stretch of it after the other."""

    def __init__(self) -> None:
        self._coder = zlib.compressobj(1, zlib.DEFLATED, _RAW, _MOST_MEMORY, zlib.Z_HUFFMAN_ONLY)
        self._pieces: list[bytes] = []
        self._last = -1  # where the last sign was

    def add(self, positions: Positions, negative: Negative) -> None:
        """Write where the next signs are, ascending, and which of them are negative."""
        if not len(positions):
            return
        gaps = np.empty_like(positions)
        np.subtract(positions[1:], positions[:-1], out=gaps[1:])
        gaps[0] = positions[0] - self._last
        gaps -= 1
        self._last = int(positions[-1])
        hops = None
        if int(gaps.max()) >= _HOP:
            hops, gaps = np.divmod(gaps, _HOP)
        symbols = gaps.astype(np.uint8)
        symbols <<= np.uint8(1)
        symbols |= negative
        if hops is not None:
            out = np.full(len(symbols) + int(hops.sum()), _HOPS, np.uint8)
            out[np.arange(len(symbols)) + np.cumsum(hops)] = symbols
            symbols = out
        self._pieces.append(self._coder.compress(symbols.data))

    def written(self) -> bytes:
        """All of it; nothing can be added afterwards."""
        return b"".join([*self._pieces, self._coder.flush()])


def decode(data: Octets, count: int) -> tuple[Positions, Negative]:
    """Read the signs among so many coordinates.

    Raises:
        WireError: not the code of so many coordinates.
    """
    most = _symbols(count)
    coder = zlib.decompressobj(_RAW)
    try:
        read = coder.decompress(data.data, most + 1)
    except zlib.error:
        raise WireError("this is no Deflate stream") from None
    if len(read) > most or not coder.eof or coder.unused_data or coder.unconsumed_tail:
        raise WireError(f"the code of the signs is not one of {count} coordinates")
    symbols = np.frombuffer(read, np.uint8)
    if not len(symbols):
        return np.empty(0, np.int64), np.empty(0, np.bool_)
    if symbols.max() > _HOPS or symbols[-1] == _HOPS:
        raise WireError("the code of the signs has a symbol that nobody writes")
    # No sum of so many steps leaves the type, whatever the symbols are.
    positions: Positions = (symbols >> np.uint8(1)).astype(np.int32 if most * (_HOP + 1) < 2**31 else np.int64)
    positions += 1
    hops = symbols == _HOPS
    positions[hops] = _HOP
    np.cumsum(positions, out=positions)
    positions -= 1
    if positions[-1] >= count:
        raise WireError(f"a sign beyond the last of {count} coordinates")
    if hops.any():
        positions, symbols = positions[~hops], symbols[~hops]
    return positions, (symbols & np.uint8(1)).astype(np.bool_)


def bounds(count: int) -> tuple[int, int]:
    """Least and most bytes that the signs take: what Huffman codes would lengthen, Deflate sends as it is."""
    most = _symbols(count)
    return 2, most + most // 1024 + 64


def _symbols(count: int) -> int:
    """The most symbols: a sign each, or hops over nearly everything."""
    return count + count // _HOP + 1
