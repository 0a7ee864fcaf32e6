"""Where the arrays of a reply are written at once, if the engine that carries them has a place for them.

An array's bytes are usually made for it, and copied by what carries them. An engine whose processes share memory says
where they go before the client begins, and one that copies them before anybody asks for the next reply lends memory
that is used again: both spare a copy, and the system the finding of fresh pages. What is made for longer than a reply
(a client's state) must not be written there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ReplyRoom:
    """Writable bytes that a reply's arrays take from the front.

    Args:
        buffer: the bytes.

    Attributes:
        used: how many of them are taken.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer, self.used = buffer, 0
        self._taken: list[tuple[memoryview, int]] = []
        self._vector: tuple[NDArray[np.float32], memoryview] | None = None

    def take(self, length: int) -> memoryview | None:
        """So many bytes; None if fewer are left."""
        if self.used + length > len(self._buffer):
            return None
        place = self._buffer[self.used : self.used + length]
        self._taken.append((place, self.used))
        self.used += length
        return place

    def expect(self, vector: NDArray[np.float32], place: memoryview) -> None:
        """Say what a place is for: a vector in it, that is to be written."""
        self._vector = vector, place

    def written_by(self, array: NDArray[Any]) -> memoryview | None:
        """The place of the vector that was expected last, if this is it; else None."""
        if self._vector is None:
            return None
        vector, place = self._vector
        same = (array.ctypes.data, array.dtype, array.shape) == (vector.ctypes.data, vector.dtype, vector.shape)
        return place if same else None

    def start_of(self, data: object) -> int | None:
        """Where bytes begin that were taken here; None for others."""
        return next((start for place, start in self._taken if place is data), None)


class KeptRoom(ReplyRoom):
    """Memory that is kept from reply to reply, and is of the largest one's size from the next one on."""

    def __init__(self) -> None:
        super().__init__(memoryview(b""))
        self._wanted = 0

    def take(self, length: int) -> memoryview | None:
        """So many bytes; None if fewer are left, which is remembered."""
        self._wanted += length
        return super().take(length)

    def clear(self) -> None:
        """Begin anew: nobody looks at what was taken any more."""
        if self._wanted > len(self._buffer):
            self._buffer = memoryview(bytearray(self._wanted))
        self.used = self._wanted = 0
        self._taken.clear()
        self._vector = None


REPLY_ROOM: ContextVar[ReplyRoom | None] = ContextVar("where a reply's arrays go", default=None)


@contextmanager
def replies_in(room: ReplyRoom) -> Iterator[None]:
    """Let replies' arrays be written there, as long as this lasts."""
    before = REPLY_ROOM.set(room)
    try:
        yield
    finally:
        REPLY_ROOM.reset(before)
