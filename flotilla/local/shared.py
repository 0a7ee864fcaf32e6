"""Array bytes in shared memory, so that a pool of processes moves megabytes without copying them through pipes.

The bytes are those of the serialised records; only where they stand differs. A record travels as its protobuf with the
arrays' data taken out, and a note of where the data stands.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory

from flwr.app import Array, ArrayRecord, RecordDict

from flotilla.flwr_compat.messages import from_bytes, to_bytes
from flotilla.flwr_compat.views import noticed

_KEPT = 32  # segments that a worker keeps open


class Segment(SharedMemory):
    """A piece of shared memory that may still be looked at when its process ends; the system then takes it back."""

    def __del__(self) -> None:
        with suppress(BufferError):
            super().__del__()


def detach(content: RecordDict) -> tuple[bytes, dict[str, Array]]:
    """Split a record into its protobuf without array data, and the arrays by "record/name"."""
    light, arrays = RecordDict(), dict[str, Array]()
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            hollow = ArrayRecord()
            for name, array in record.items():
                arrays[json.dumps([key, name])] = array
                hollow[name] = Array(array.dtype, tuple(array.shape), array.stype, b"")
            light[key] = hollow
        else:
            light[key] = record
    return to_bytes(light), arrays


def attach(light: bytes, data: dict[str, memoryview]) -> RecordDict:
    """Put a record together again; the arrays' data are views, not copies."""
    content = from_bytes(light)
    for path, view in data.items():
        key, name = json.loads(path)
        record = content[key]  # not `content.array_records`, whose views are cycles that keep the data alive
        assert isinstance(record, ArrayRecord)  # as `detach` found it
        record[name].data = view  # type: ignore[assignment]  # any buffer reads like bytes
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
