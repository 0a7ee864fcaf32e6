"""A message in fewer objects, for a way on which each object is a request of its own.

In a deployment flwr moves a message object by object: for each of its records, and for each array three times, a
request from the server to the SuperLink, from there to the SuperNode, from there to the ClientApp, and so back. A
request of six objects is four here, a reply of seven three: all records stand in one, an array as its bytes. What is
the same object in many requests, the state, stays a record of its own, so that it is sent to the SuperLink once.

    "packed"                        RECORD/FIELD of a record of fields, RECORD:FIELD of metrics, RECORD=NAME of arrays
    "packed-RECORD"                 the same of one record of arrays
    an array                        its type, shape and format as JSON, a line's end, its bytes

Neither side's handlers see any of it, and whoever sees it does so before anything else: what does not read as above is
left as it came, and is no message then. Arrays of more than 4 MiB, which flwr cuts into pieces, go as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from protocol.arrays import WireError

PACKED = "packed"  # a record of this name says that a message has been packed
_APART = "packed-"
_MARKS = {ConfigRecord: "/", MetricRecord: ":", ArrayRecord: "="}
_MOST = 1 << 22  # bytes of arrays that are packed
_MOST_SAID = 1 << 10  # bytes of what is said of an array
_MOST_RECORDS, _MOST_FIELDS = 16, 1 << 14  # that a peer may pack


class Packer:
    """Packs requests; the same record of arrays becomes the same object."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[ArrayRecord, ConfigRecord]] = {}

    def pack(self, content: RecordDict) -> RecordDict:
        """A request's content in fewer objects; as it is where that saves nothing or it is too large."""
        if not _worth_it(content):
            return content
        packed = RecordDict({PACKED: ConfigRecord()})
        for name, record in content.items():
            if isinstance(record, ArrayRecord):
                if id(record) not in self._made:
                    self._made[id(record)] = record, ConfigRecord(dict(_fields(name, record)))
                packed[_APART + name] = self._made[id(record)][1]
            else:
                cast(ConfigRecord, packed[PACKED]).update(_fields(name, record))
        return packed


def pack(content: RecordDict) -> RecordDict:
    """A reply's content in one record; as it is where that saves nothing or it is too large."""
    if not _worth_it(content):
        return content
    return RecordDict(
        {PACKED: ConfigRecord({key: value for name in content for key, value in _fields(name, content[name])})}
    )


def unpack(content: RecordDict) -> RecordDict:
    """What was packed.

    Raises:
        WireError: it was not packed like this; one line.
    """
    found = RecordDict()
    if len(content) > _MOST_RECORDS:
        raise WireError(f"{len(content)} records")
    for name, record in content.items():
        if not isinstance(record, ConfigRecord) or not (name == PACKED or name.startswith(_APART)):
            raise WireError("not a packed message")
        if len(record) > _MOST_FIELDS:
            raise WireError(f"{len(record)} fields")
        for key, value in record.items():
            _put(found, key, value)
    return found


def _worth_it(content: RecordDict) -> bool:
    arrays = [array for record in content.values() if isinstance(record, ArrayRecord) for array in record.values()]
    plain = all(name and record and not set(name) & set(_MARKS.values()) for name, record in content.items())
    return len(content) > 1 and plain and sum(len(array.data) for array in arrays) <= _MOST


def _fields(name: str, record: ConfigRecord | MetricRecord | ArrayRecord) -> Iterator[tuple[str, Any]]:
    mark = name + _MARKS[type(record)]
    for key, value in record.items():
        yield mark + key, _bytes_of(value) if isinstance(value, Array) else value


def _bytes_of(array: Array) -> bytes:
    said = json.dumps([array.dtype, list(array.shape), array.stype]).encode()
    return b"\n".join((said, array.data))


def _put(found: RecordDict, key: str, value: object) -> None:
    """Put a field where it was."""
    at = next((at for at, letter in enumerate(key) if letter in "/:="), 0)
    kind = next((kind for kind, mark in _MARKS.items() if key[at : at + 1] == mark), None)
    if not at or kind is None:
        raise WireError("a packed field without its record")
    name, field = key[:at], key[at + 1 :]
    record = found.setdefault(name, kind())
    if type(record) is not kind:
        raise WireError("a packed record of two kinds")
    try:
        record[field] = _array(value) if kind is ArrayRecord else value
    except TypeError:  # no number, among metrics
        raise WireError("a packed field of another kind") from None


def _array(value: object) -> Array:
    if not isinstance(value, bytes):
        raise WireError("a packed array that is no bytes")
    end = value.find(b"\n", 0, _MOST_SAID)
    try:
        dtype, shape, stype = json.loads(value[: max(end, 0)])
    except (ValueError, TypeError, RecursionError):
        raise WireError("nothing is said of a packed array") from None
    if not (isinstance(dtype, str) and isinstance(stype, str) and isinstance(shape, list)):
        raise WireError("what is said of a packed array does not read")
    if not all(type(side) is int and 0 <= side < 2**48 for side in shape):
        raise WireError("what is said of a packed array does not read")
    return Array(dtype, tuple(shape), stype, value[end + 1 :])
