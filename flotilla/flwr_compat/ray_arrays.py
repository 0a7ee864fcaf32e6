"""The data of messages' arrays beside Ray's pickles, not inside them.

flwr's messages hold arrays as bytes. Bytes are copied into the pickle, the pickle into a frame, the frame into Ray's
store, and so back on the other side; what lies beside a pickle (PEP 574) is copied into the store once and out of it
once. It comes back as the bytes that it was, by Python's own means, so that a process that lacks this module reads what
one that has it sends. What our ClientApp sends as views of memory that it uses again (`client_app.mods`) comes back as
views of Ray's store, and is not copied out of it.

Requests often carry the same state, as one object: whoever sends them puts it into the store once.
"""

from __future__ import annotations

import copyreg
import os
from collections import OrderedDict
from pickle import PickleBuffer
from threading import Lock
from typing import Any

import ray
from flwr.app import Array
from ray import cloudpickle

LEAST = 1 << 16  # bytes; fewer are copied sooner than accounted for
REPLIES_ARE_COPIED = "FLOTILLA_REPLIES_ARE_COPIED"  # tells the ClientApp so
_MOST = 1 << 26  # bytes of states that stay in the store for the next request


class _Beside:
    """Bytes that are pickled beside the rest."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As a call of `bytes`; protocols before 5 know nothing beside a pickle."""
        return bytes, (PickleBuffer(self._data) if protocol >= 5 else self._data,)


class _View:
    """A view of bytes, which lie beside the rest and are looked at where they come to lie: nothing is copied there."""

    __slots__ = ("_data",)

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As a call of `memoryview`."""
        return memoryview, (PickleBuffer(self._data) if protocol >= 5 else bytes(self._data),)


class _InStore:
    """Bytes that are in Ray's store already."""

    __slots__ = ("_place",)

    def __init__(self, place: Any) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return ray.get, (self._place,)


class _Store:
    """What was put into the store last, by the object that it is; at most so many bytes, or one of more."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[bytes, Any]] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def __call__(self, data: bytes) -> _InStore:
        """Put it there, if it is not."""
        with self._lock:
            if id(data) not in self._known:
                self._known[id(data)] = data, ray.put(data)  # holds the bytes, so that their id is not used again
                self._bytes += len(data)
            self._known.move_to_end(id(data))
            while self._bytes > _MOST and len(self._known) > 1:
                self._bytes -= len(self._known.popitem(last=False)[1][0])
            return _InStore(self._known[id(data)][1])


def beside_pickles() -> None:
    """Let Ray pickle arrays so from now on, in this process: for a worker, each of whose replies is another.

    A reply is in Ray's store before the worker is asked for the next, so its arrays may be views of memory that is used
    again (`client_app.mods`).
    """
    cloudpickle.CloudPickler.dispatch[Array] = lambda array: _reduced(array, _Beside)
    os.environ[REPLIES_ARE_COPIED] = "1"


def once_in_store() -> None:
    """Let Ray have what this process sends in its store, once."""
    store = _Store()
    cloudpickle.CloudPickler.dispatch[Array] = lambda array: _reduced(array, store)


def _reduced(array: Array, moved: Any) -> tuple[Any, ...]:
    said = dict(array.__dict__)
    data: Any = array.data
    if isinstance(data, memoryview):
        said["data"] = _View(data)
    elif isinstance(data, bytes) and len(data) >= LEAST:
        said["data"] = moved(data)
    return copyreg.__newobj__, (Array,), said  # type: ignore[attr-defined]
