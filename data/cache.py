"""A cache that is bounded by bytes, not by entries: clients' shards differ by orders of magnitude."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """Keep the most recently used values up to a number of bytes.

    Args:
        limit: bytes kept at most; a single value above it is kept until the next one comes.
        size: the bytes of a value.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self._limit, self._size = limit, size
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made by `make` where it is not kept (two threads may both make it)."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            if key in self._kept:
                return self._kept[key]
            self._kept[key] = value
            self._bytes += self._size(value)
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._size(self._kept.popitem(last=False)[1])
        return value
