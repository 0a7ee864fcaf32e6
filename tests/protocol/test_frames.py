"""Frames: every field is checked before the payload is looked at, and nothing is allocated beyond the plan."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from flwr.app import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import WireError
from protocol.codecs import CodecSettings, codec_of
from protocol.codecs.frame import HEADER
from tests.protocol.cases import EVERY, Kept, difference, draws, named
from tests.protocol.fuzz import SIZES, Target, fuzz, npy, repair

FRAMED = pytest.mark.parametrize("codec", [s for s in EVERY if s.name != "float32"], ids=named)
QSGD = Target(CodecSettings("qsgd", small=100))


def refused(target: Target, array: Array, sizes: tuple[int, ...] = SIZES) -> str:
    with pytest.raises(WireError) as caught:
        target.codec.decode(array, sizes, target.server)
    return str(caught.value)


@pytest.mark.parametrize(
    ("at", "form", "value", "word"),
    [
        (0, "<I", 0, "magic"),
        (4, "<H", 2, "version"),
        (6, "<H", 4, "kind"),
        (8, "<I", 1, "settings"),
        (12, "<I", 5, "tensors"),
        (16, "<Q", 2**62, "coordinates"),
        (16, "<Q", 239, "coordinates"),
        (24, "<Q", 2**63, "payload"),
        (36, "<I", 0, "checksum"),
        (40, "<f", 1.0, "checksum"),
    ],
)
def test_a_field_that_says_something_else(at: int, form: str, value: float, word: str) -> None:
    frame = bytearray(QSGD.frame)
    struct.pack_into(form, frame, at, value)
    assert word in refused(QSGD, npy(bytes(frame)))


@pytest.mark.parametrize(
    "sizes", [(5, 130, 2, 102), (5, 130, 101, 2), (5, 130, 2, 101, 0), (135, 2, 101), (), (2**40,)]
)
def test_a_frame_of_another_part(sizes: tuple[int, ...]) -> None:
    refused(QSGD, npy(QSGD.frame), sizes)


@FRAMED
def test_a_frame_of_other_settings(codec: CodecSettings) -> None:
    """Even of as many bytes: settings are part of what both ends agree on."""
    target = Target(codec)
    for other in EVERY:
        if other.name != "float32" and other != codec:
            with pytest.raises(WireError):
                codec_of(other).decode(npy(target.frame), SIZES, Kept())


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint16", "object", ""])
def test_an_array_of_another_type(dtype: str) -> None:
    array = npy(QSGD.frame)
    assert dtype in refused(QSGD, Array(dtype, array.shape, array.stype, array.data))


@pytest.mark.parametrize("shape", [(), (0,), (-1,), (2**62,), (1, len(QSGD.frame)), (len(QSGD.frame), 1)])
def test_an_array_of_another_shape(shape: tuple[int, ...]) -> None:
    refused(QSGD, Array("uint8", shape, "numpy.ndarray", npy(QSGD.frame).data))


def test_what_is_plain_float32_is_no_frame() -> None:
    array = codec_of(CodecSettings()).encode(difference(SIZES), SIZES, draws(), Kept())
    assert "float32" in refused(QSGD, array)


@FRAMED
def test_every_single_flipped_bit_is_refused(codec: CodecSettings) -> None:
    target = Target(codec)
    step = max(1, 8 * len(target.frame) // 400)
    for bit in [*range(8 * HEADER), *range(8 * HEADER, 8 * len(target.frame), step)]:
        frame = bytearray(target.frame)
        frame[bit // 8] ^= 1 << bit % 8
        refused(target, npy(bytes(frame)))


@FRAMED
def test_every_length_but_the_right_one_is_refused(codec: CodecSettings) -> None:
    """Also with a right checksum, where only the payload itself can tell."""
    target = Target(codec)
    length = len(target.frame)
    for cut in [*range(0, length, max(1, length // 60)), *range(length - 9, length)]:
        frame = bytearray(target.frame[:cut])
        refused(target, npy(bytes(frame)))
        repair(frame)
        if codec.entropy != "range" or cut % 4 != length % 4:  # shorter range code can mean something
            refused(target, npy(bytes(frame)))


def test_a_norm_that_is_no_norm() -> None:
    for value in (-1.0, float("nan"), float("inf")):
        frame = bytearray(QSGD.frame)
        struct.pack_into("<f", frame, HEADER + 4 * 7, value)
        repair(frame)
        assert "norm" in refused(QSGD, npy(bytes(frame)))


def test_a_level_beyond_the_highest() -> None:
    """Four bits hold 15, but there are only 2·7 + 1 levels."""
    frame = bytearray(QSGD.frame)
    frame[-2] = 0xFF
    repair(frame)
    assert "beyond 7" in refused(QSGD, npy(bytes(frame)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(EVERY) - 2), st.booleans())
def test_any_bytes_are_refused_in_words(data: bytes, which: int, whole: bool) -> None:
    """As a frame, or as the payload of a right one."""
    target = TARGETS[which]
    frame = bytearray(data if whole else target.frame[:HEADER] + data)
    repair(frame)
    target.check(npy(bytes(frame)), repaired=True)


TARGETS = [Target(s) for s in EVERY if s.name != "float32"]


def test_thousands_of_mutated_frames() -> None:
    """`make fuzz` tries a million."""
    seen = fuzz(4000, seed=1)
    assert seen["refused"] > 3000
    assert seen["other numbers"] > 100  # what is behind the checksum is reached


def test_nothing_is_allocated_beyond_the_plan() -> None:
    fuzz(200)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fuzz(1500, seed=2)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20  # Python's own objects; a count taken at its word would be gigabytes
