"""Range coding (Martin 1979) with the library `constriction` (Bamler 2022), one static model per frame.

The model is the histogram of the levels, which goes ahead as 2s + 1 counts of one to five bytes (LEB128). The length is
within a few bytes of the empirical entropy plus that table. What is read must have exactly the counts of the table.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from protocol.arrays import WireError
from protocol.codecs.bits import Numbers, Octets, dtype_for

_PREFIX = struct.Struct("<I")  # bytes of the table
_MOST_COUNT = 5  # bytes of a count
_MOST_LEVELS = 2**32 - 1


def encode(levels: Numbers, most: int) -> list[bytes]:
    """Encode levels plus `most`, so 0 to 2·most."""
    if len(levels) > _MOST_LEVELS:
        raise ValueError(f"range coding takes {_MOST_LEVELS} coordinates at most, got {len(levels)}")
    counts = np.bincount(levels, minlength=2 * most + 1)
    table = b"".join(_varint(int(count)) for count in counts)
    coder = _library().queue.RangeEncoder()
    coder.encode(levels.astype(np.int32), _model(counts))
    words = coder.get_compressed()
    return [_PREFIX.pack(len(table)), table, words.astype("<u4", copy=False).tobytes()]


def decode(data: Octets, count: int, most: int) -> Numbers:
    """Read so many levels plus `most`.

    Raises:
        WireError: not the code of so many levels.
    """
    (length,) = _PREFIX.unpack(data[: _PREFIX.size].data)
    words = data[_PREFIX.size + length :]
    if length > len(data) - _PREFIX.size or len(words) % 4:
        raise WireError("range code of another length than it says")
    counts = _counts(bytes(data[_PREFIX.size : _PREFIX.size + length]), 2 * most + 1)
    if int(counts.sum()) != count:
        raise WireError(f"the table of the range code is one of {int(counts.sum())} levels, not {count}")
    decoder = _library().queue.RangeDecoder(words.view("<u4").astype(np.uint32) if len(words) else _NOTHING)
    try:
        read = decoder.decode(_model(counts), count)
    except AssertionError:
        raise WireError("this is no range code of the table that goes with it") from None
    levels: Numbers = read.astype(dtype_for((2 * most).bit_length()))
    if not np.array_equal(np.bincount(levels, minlength=2 * most + 1), counts):
        raise WireError("the range code holds other levels than its table says")
    return levels


def bounds(count: int, most: int) -> tuple[int, int]:
    """Least and most bytes that so many levels take.

    A level that occurs takes at most the 24 bits of the model's resolution.
    """
    symbols = 2 * most + 1
    return _PREFIX.size + symbols, _PREFIX.size + _MOST_COUNT * symbols + 3 * count + 8


_NOTHING = np.empty(0, np.uint32)


def _model(counts: Any) -> Any:
    # "perfect" would look for the best rounding of the probabilities, for nothing that a length shows.
    return _library().model.Categorical(counts.astype(np.float64), perfect=False)


def _library() -> Any:
    try:
        from constriction import stream
    except ImportError:
        raise WireError("codec-entropy 'range' needs the package constriction, which is not installed here") from None
    return stream


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 127:
        octets.append(number & 127 | 128)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _counts(table: bytes, symbols: int) -> Any:
    """Read the table: so many counts in their shortest form, and nothing after them."""
    counts = np.zeros(symbols, np.int64)
    at = 0
    for i in range(symbols):
        shift = 0
        while True:
            if at >= len(table) or shift > 28:
                raise WireError("the table of the range code is cut short")
            octet = table[at]
            at += 1
            counts[i] |= (octet & 127) << shift
            shift += 7
            if octet < 128:
                break
        if octet == 0 and shift > 7:
            raise WireError("the table of the range code is not in its shortest form")
    if at != len(table):
        raise WireError("the table of the range code is too long")
    return counts
