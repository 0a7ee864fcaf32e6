"""The parser of an array's header alone: whatever stands there is refused in words, or harmless."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import WireError, decode


def encoded(length: int = 5) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(length, dtype=np.float32))
    return buffer.getvalue()


def test_every_flipped_bit_of_the_header_is_refused_or_harmless() -> None:
    good = encoded()
    header = len(good) - 20
    for position in range(header):
        for bit in range(8):
            bad = good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :]
            try:
                read = decode(Array("float32", (5,), "numpy.ndarray", bad), 5)
            except WireError:
                continue
            assert read.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_header_is_refused_in_words(header: bytes) -> None:
    framed = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 20
    with pytest.raises(WireError):
        decode(Array("float32", (5,), "numpy.ndarray", framed), 5)


@pytest.mark.parametrize(
    "header", [b"(" * 300, b"{'descr': '<f4', 'shape': (5,", b"[" * 3000, b"9" * 3000, b"\xff" * 40]
)
def test_headers_that_break_parsers(header: bytes) -> None:
    test_any_header_is_refused_in_words.hypothesis.inner_test(header)  # type: ignore[attr-defined]
