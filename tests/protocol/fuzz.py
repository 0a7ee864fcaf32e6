"""Mutated frames and messages by the million: each is read exactly or refused with WireError, in bounded memory.

`make fuzz` runs this as a program, half of its count frames and half messages (`tests.protocol.fuzz_messages`);
`test_frames.py` and `test_messages.py` a few thousand. Half of the frames get their checksum and lengths
put right again after the mutation, as a liar would, so that what lies behind the checksum is tried as well. Such a
frame may decode to other numbers, but only to a vector of the plan's length, and where a payload has one way to be
written, only if it is written that way.
"""

from __future__ import annotations

import io
import random
import resource
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from flwr.app import Array

from models.algebra.rates import share_of
from protocol import WireError
from protocol.codecs import Codec, CodecSettings, codec_of
from protocol.codecs.frame import HEADER
from protocol.codecs.layout import layout_of
from protocol.codecs.levels import CODINGS
from protocol.codecs.sparse import read_indices, write_indices
from protocol.codecs.topk import Sparse
from tests.protocol import fuzz_messages
from tests.protocol.cases import EVERY, Kept, difference, draws, named

# Small, so that a million take minutes: two large tensors, two small ones.
SIZES, SMALL = (5, 130, 2, 101), 100
_CHECKSUM = HEADER - 4
_PAYLOAD = 24  # where the header says how long the payload is


class Target:
    """A codec, a frame of it, and what it says.

    Args:
        settings: of the codec.
    """

    def __init__(self, settings: CodecSettings) -> None:
        self.name, self.server = named(settings), Kept()
        self.codec: Codec = codec_of(settings)
        client, x = Kept(), difference(SIZES)
        for seed in range(2):  # the second frame of EF21 adds to the first
            array = self.codec.encode(difference(SIZES, seed), SIZES, draws(), client, self.codec.base(self.server))
            self.decoded = self.codec.decode(array, SIZES, self.server)
            if seed == 0:
                for name, vector in self.decoded.remember.items():
                    self.server.write(name, vector)
        self.frame = array.data[-array.shape[0] :]
        assert len(x) == sum(SIZES)

    def check(self, array: Array, *, repaired: bool) -> str:
        """Decode a mutated array; what came of it, in a word.

        Raises:
            AssertionError: it was neither refused nor decoded exactly.
        """
        try:
            flat = self.codec.decode(array, SIZES, self.server).flat
        except WireError as error:
            line = str(error)
        else:
            return self._decoded(flat, array, repaired=repaired)
        assert "\n" not in line
        assert len(line) < 500
        return "refused"

    def _decoded(self, flat: torch.Tensor, array: Array, *, repaired: bool) -> str:
        assert flat.dtype == torch.float32
        assert flat.shape == (sum(SIZES),)
        if torch.equal(flat, self.decoded.flat):
            return "the same"
        assert repaired, f"{self.name}: a frame with a wrong checksum was decoded to other numbers"
        payload = array.data[len(array.data) - array.shape[0] + HEADER :]
        assert self.rewritten(payload) == payload, f"{self.name}: a payload that nobody writes"
        return "other numbers"

    def rewritten(self, payload: bytes) -> bytes:
        """The payload, as it would be written again; not range codes and Deflate, which have several ways."""
        s, data = self.codec.settings, np.frombuffer(payload, np.uint8)
        layout = layout_of(SIZES, s.small, s.scale, s.block)
        if s.name == "qsgd" and s.entropy != "range":
            raw = 4 * (layout.plain + layout.groups)
            numbers = CODINGS[s.entropy].decode(data[raw:], layout.encoded, s.levels)
            return payload[:raw] + b"".join(CODINGS[s.entropy].encode(numbers, s.levels))
        if isinstance(self.codec, Sparse):
            k = share_of(s.share, layout.encoded)
            raw = 4 * (layout.plain + k)
            return payload[:raw] + write_indices(read_indices(data[raw:], k, layout.encoded), layout.encoded)
        return payload


def npy(frame: bytes, shape: int | None = None) -> Array:
    """A frame as a uint8 array."""
    header = io.BytesIO()
    shape = len(frame) if shape is None else shape
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (shape,)})
    return Array("uint8", (shape,), "numpy.ndarray", header.getvalue() + frame)


def repair(frame: bytearray) -> None:
    """Put the payload's length and the checksum right."""
    if len(frame) >= HEADER:
        struct.pack_into("<Q", frame, _PAYLOAD, len(frame) - HEADER)
        struct.pack_into("<I", frame, _CHECKSUM, zlib.crc32(frame[HEADER:], zlib.crc32(frame[:_CHECKSUM])))


def flip(frame: bytearray, r: random.Random) -> None:
    """A few bits."""
    for _ in range(r.choice((1, 1, 1, 2, 8))):
        frame[r.randrange(len(frame))] ^= 1 << r.randrange(8)


def overwrite(frame: bytearray, r: random.Random) -> None:
    """A stretch by random bytes, zeros or ones."""
    start = r.randrange(len(frame))
    length = min(r.randrange(1, 12), len(frame) - start)
    frame[start : start + length] = r.choice((r.randbytes(length), b"\0" * length, b"\xff" * length))


def number(frame: bytearray, r: random.Random) -> None:
    """An extreme whole number somewhere, most often in the header or at the front of a part of the payload."""
    form = r.choice(("<I", "<Q", "<H"))
    value = r.choice((0, 1, 2, 127, 128, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1))
    size = struct.calcsize(form)
    at = r.choice((r.randrange(HEADER), HEADER + 28, r.randrange(len(frame))))
    if at + size <= len(frame):
        struct.pack_into(form, frame, at, value % 2 ** (8 * size))


def cut(frame: bytearray, r: random.Random) -> None:
    """Shorter, at the end or in the middle."""
    start = r.randrange(len(frame))
    del frame[start : start + r.choice((1, 4, len(frame)))]


def grow(frame: bytearray, r: random.Random) -> None:
    """Longer."""
    at = r.choice((len(frame), r.randrange(len(frame) + 1)))
    frame[at:at] = r.choice((r.randbytes(r.randrange(1, 9)), b"\0" * 4, frame[at : at + 16]))


def swap(frame: bytearray, r: random.Random) -> None:
    """Two stretches change places."""
    a, b = sorted(r.randrange(len(frame)) for _ in range(2))
    length = min(8, b - a, len(frame) - b)
    frame[a : a + length], frame[b : b + length] = frame[b : b + length], frame[a : a + length]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, flip, overwrite, number, cut, grow, swap)


def mutated(target: Target, others: list[Target], r: random.Random) -> tuple[Array, bool]:
    """A frame with one to three mutations; whether lengths and checksum were put right."""
    frame = bytearray(target.frame)
    if r.random() < 0.05:  # the head of one frame with the rest of another
        other = r.choice(others).frame
        at = r.choice((HEADER, r.randrange(len(frame))))
        frame[at:] = other[at:]
    for _ in range(r.choice((1, 1, 2, 3))):
        if frame:
            r.choice(MUTATIONS)(frame, r)
    repaired = r.random() < 0.5
    if repaired:
        repair(frame)
    if r.random() > 0.02:
        return npy(bytes(frame)), repaired
    lie = r.choice((0, 1, 39, 2**31, 2**62, len(frame) + 1))  # and sometimes the array's own header lies
    array = npy(bytes(frame), lie)
    return (array if r.random() < 0.5 else Array("uint8", (len(frame),), "numpy.ndarray", array.data)), repaired


def targets() -> list[Target]:
    """All codecs that are framed, with the settings that the other tests use."""
    return [Target(settings) for settings in EVERY if settings.name != "float32"]


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """Try so many mutated frames, of all codecs in turn; how many ended how."""
    r, everybody, seen = random.Random(seed), targets(), Counter[str]()
    for i in range(count):
        target = everybody[i % len(everybody)]
        array, repaired = mutated(target, everybody, r)
        seen[target.check(array, repaired=repaired)] += 1
    return seen


def main(count: int, seed: int) -> None:
    """Fuzz with a limit on the address space: an allocation beyond the plan fails."""
    fuzz(200, seed)  # libraries and buffers are there
    fuzz_messages.fuzz(2000, seed)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    for what, kind, many in (("frames", fuzz, count // 2), ("messages", fuzz_messages.fuzz, count - count // 2)):
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, perf_counter()
        seen = kind(many, seed)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        took = f"{many:,} {what} in {perf_counter() - began:.0f} s, seed {seed}"
        print(f"{took}: {dict(seen)}; memory grew by {grown} KiB", flush=True)
    print(f"{count:,} in all; at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB of memory")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
