"""The data of messages' arrays beside Ray's pickles, not inside them.

flwr's messages hold arrays as bytes. Bytes are copied into the pickle, the pickle into a frame, the frame into Ray's
store, and so back on the other side; what lies beside a pickle (PEP 574) is copied into the store once and out of it
once. It comes back as the bytes that it was, by Python's own means: whoever reads a message notices nothing, and a
process that lacks this module reads what one that has it sends.
"""

from __future__ import annotations

import copyreg
from pickle import PickleBuffer
from typing import Any

from flwr.app import Array
from ray import cloudpickle

LEAST = 1 << 16  # bytes; fewer are copied sooner than accounted for


class _Beside:
    """Bytes that are pickled beside the rest."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As a call of `bytes`; protocols before 5 know nothing beside a pickle."""
        return bytes, (PickleBuffer(self._data) if protocol >= 5 else self._data,)


def arrays_beside_pickles() -> None:
    """Let Ray pickle so from now on, in this process and those that are forked from it."""
    cloudpickle.CloudPickler.dispatch[Array] = _reduced


def _reduced(array: Array) -> tuple[Any, ...]:
    said = dict(array.__dict__)
    if isinstance(array.data, bytes) and len(array.data) >= LEAST:
        said["data"] = _Beside(array.data)
    return copyreg.__newobj__, (Array,), said  # type: ignore[attr-defined]
