"""Array bytes in shared memory, so that a pool of processes moves megabytes without copying them through pipes.

The bytes are those of the serialised records; only where they stand differs. A record travels with the arrays' data
taken out, and a note of where the data stands: as JSON where that says what protobuf would, as protobuf else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory

from flwr.app import Array, ArrayRecord, RecordDict

from flotilla.flwr_compat.messages import from_bytes, from_json, hollow, to_bytes, to_json
from flotilla.flwr_compat.views import noticed

_KEPT = 32  # segments that a worker keeps open
_JSON, _PROTOBUF = b"j", b"p"  # what follows


class Segment(SharedMemory):
    """A piece of shared memory that may still be looked at when its process ends; the system then takes it back."""

    def __del__(self) -> None:
        with suppress(BufferError):
            super().__del__()


def detach(content: RecordDict) -> tuple[bytes, list[Array]]:
    """Split a record into all but its arrays' data, and its arrays in their order."""
    arrays = [array for record in content.values() if isinstance(record, ArrayRecord) for array in record.values()]
    said = to_json(content)
    return (_PROTOBUF + to_bytes(hollow(content)) if said is None else _JSON + said), arrays


def whole(content: RecordDict) -> bytes:
    """A record with its arrays' data, for `attach`."""
    return _PROTOBUF + to_bytes(content)


def attach(light: bytes, data: Sequence[memoryview]) -> RecordDict:
    """Put a record together again.

    Args:
        light: what `detach` or `whole` made.
        data: of its arrays, in their order; they are looked at where they are. Empty where `light` has them.
    """
    content = from_json(light[1:]) if light[:1] == _JSON else from_bytes(light[1:])
    if data:
        arrays = (one for record in content.values() if isinstance(record, ArrayRecord) for one in record.values())
        for array, view in zip(arrays, data, strict=True):
            array.data = view  # type: ignore[assignment]  # any buffer reads like bytes
    return content


class Slots:
    """Segments of the parent process, handed out and taken back when nobody looks at them any more."""

    def __init__(self) -> None:
        self._free: list[Segment] = []
        self._all: list[Segment] = []

    def take(self, length: int) -> Segment:
        """A segment of at least this many bytes; give it back with `give` or through `view`."""
        for i in reversed(range(len(self._free))):  # the last one used: a worker has it open, its pages are there
            if self._free[i].size >= length:
                return self._free.pop(i)
        segment = Segment(create=True, size=max(length, 1))
        self._all.append(segment)
        return segment

    def give(self, segment: Segment) -> None:
        """Take a segment back."""
        self._free.append(segment)

    def view(self, segment: Segment, length: int) -> memoryview:
        """The bytes of a segment, which comes back by itself once neither this view nor anything made of it is left."""
        assert segment.buf is not None  # open
        return noticed(segment.buf, lambda: self.give(segment), length)

    def close(self) -> None:
        """Remove all segments."""
        for segment in self._all:
            segment.unlink()
            with suppress(BufferError):  # somebody still looks at it; the memory goes with the process
                segment.close()


class Attached:
    """A worker's view of the parent's segments, the most recent ones kept open."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Segment] = OrderedDict()

    def buffer(self, name: str) -> memoryview:
        """The bytes of a segment."""
        if name not in self._open:
            while len(self._open) >= _KEPT:
                _, oldest = self._open.popitem(last=False)
                with suppress(BufferError):
                    oldest.close()
            self._open[name] = Segment(name)
        self._open.move_to_end(name)
        buffer = self._open[name].buf
        assert buffer is not None  # open
        return buffer
