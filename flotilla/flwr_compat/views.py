"""Views of memory that somebody takes back: they notice when nobody looks at it any more.

Imports nothing of ours, as `ray_backend` is loaded by a program that has nothing of ours.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import RLock
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray

_VIEWED = 1 << 28  # bytes of replies that are looked at where they came to lie


class _Weak(np.ndarray):
    """An array that notices when it goes away. Whoever looks at a view's memory holds this, not the view."""


def noticed(buffer: Any, gone: Callable[[], object], count: int = -1) -> memoryview:
    """A view of a buffer's bytes.

    Args:
        buffer: what lies in memory.
        gone: called once neither this view nor anything made of it is left; not when the process ends.
        count: so many bytes from the front; -1 is all.
    """
    owner: NDArray[np.uint8] = np.frombuffer(buffer, dtype=np.uint8, count=count).view(_Weak)
    weakref.finalize(owner, gone).atexit = False
    return owner.data


class ViewsOfStore:
    """What is looked at where it lies in Ray's store, which cannot take it back then: no more than so many bytes.

    Args:
        most: how many.
    """

    def __init__(self, most: int = _VIEWED) -> None:
        self._most, self._bytes, self._lock = most, 0, RLock()  # a view may end while one is admitted

    def admit(self, content: RecordDict) -> None:
        """Let a message's arrays be looked at there as long as anybody does; copy those that would be too much."""
        for record in content.values():
            if isinstance(record, ArrayRecord):
                for array in record.values():
                    self._admit(array)

    def _admit(self, array: Array) -> None:
        data: Any = array.data
        if not isinstance(data, memoryview):
            return
        length = len(data)
        with self._lock:
            fits = self._bytes + length <= self._most
            self._bytes += length if fits else 0
        # Any buffer reads like bytes.
        array.data = noticed(data, lambda: self._released(length)) if fits else bytes(data)  # type: ignore[assignment]

    def _released(self, count: int) -> None:
        with self._lock:
            self._bytes -= count
