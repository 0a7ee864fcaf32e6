"""Messages and records outside of a SuperLink: their bytes, their ids, and the codes of their errors."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, TypeAlias

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.error_pb2 import Error as ErrorProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

CLIENT_APP_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
CLIENT_APP_CRASHED = int(ErrorCode.CLIENT_APP_CRASHED)
_INTEGERS, _SIZES = 1 << 63, 1 << 31  # of protobuf's integers, from -2^63, and of the sides of its arrays
_Record: TypeAlias = ArrayRecord | ConfigRecord | MetricRecord
_OF_VALUES: dict[str, type[ConfigRecord | MetricRecord]] = {"config": ConfigRecord, "metrics": MetricRecord}
_OF_ARRAYS = "arrays"
_NUMBERS = frozenset({int, float})
_SCALARS = _NUMBERS | {bool, str, bytes}


def to_bytes(content: RecordDict) -> bytes:
    """Serialise a record as flwr does on the wire."""
    data: bytes = recorddict_to_proto(content).SerializeToString()
    return data


def from_bytes(data: bytes) -> RecordDict:
    """Parse what `to_bytes` made."""
    return recorddict_from_proto(RecordDictProto.FromString(data))


def to_json(content: RecordDict) -> bytes | None:
    """Serialise all but the data of arrays, in a quarter of the time that `to_bytes` takes.

    Returns:
        None where something might arrive otherwise than by protobuf, or not at all.
    """
    said = list[tuple[str, str, object]]()
    for name, record in content.items():
        if not name.isascii():
            return None
        if type(record) is ArrayRecord:
            if not all(key.isascii() and _is_described(one) for key, one in record.items()):
                return None
            said.append((name, _OF_ARRAYS, [(key, one.dtype, one.shape, one.stype) for key, one in record.items()]))
        elif (kind := _kind_of(record)) is not None and _holds_values(record):
            said.append((name, kind, dict(record.items())))
        else:
            return None
    try:
        return json.dumps(said, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError):  # bytes; infinity, and NaN, of which JSON knows only one
        return None


def from_json(data: bytes) -> RecordDict:
    """Parse what `to_json` made; the arrays have no data."""
    content = RecordDict()
    for name, kind, fields in json.loads(data):
        if kind == _OF_ARRAYS:
            content[name] = record = ArrayRecord()
            for key, dtype, shape, stype in fields:
                record[key] = Array(dtype, tuple(shape), stype, b"")
        else:
            content[name] = _filled(_OF_VALUES[kind], fields)
    return content


def error_as_sent(code: int, reason: str) -> Error:
    """An error as it arrives from a real engine: what protobuf cannot hold ends the client's process instead."""
    try:
        sent = ErrorProto.FromString(ErrorProto(code=code, reason=reason).SerializeToString())
    except UnicodeError:
        return Error(CLIENT_APP_CRASHED, "the client's error cannot be sent")
    return Error(sent.code, sent.reason)


def through_the_wire(content: RecordDict) -> RecordDict:
    """As if serialised and parsed: what would not survive the wire does not survive here, and nothing is shared.

    What protobuf holds as it is, which is nearly everything, is copied, in a third of the time; where something is
    different all goes through protobuf.
    """
    arrived = RecordDict()
    for name, record in content.items():
        copied = _copied(record) if name.isascii() else None
        if copied is None:
            return _by_protobuf(content)
        arrived[name] = copied
    return arrived


def _copied(record: _Record) -> _Record | None:
    """A record of its own with the same values; None where protobuf might have others, or refuse them."""
    if type(record) is ArrayRecord:
        if not all(key.isascii() and _is_kept(one) for key, one in record.items()):
            return None
        arrays = {key: (one.dtype, one.shape, one.stype, bytes(memoryview(one.data))) for key, one in record.items()}
        return ArrayRecord({key: Array(*values) for key, values in arrays.items()})
    kind = _kind_of(record)
    if kind is None or not _holds_values(record):
        return None
    values: dict[str, Any] = {key: one.copy() if type(one) is list else one for key, one in record.items()}
    return _filled(_OF_VALUES[kind], values)


def _kind_of(record: _Record) -> str | None:
    """Which record of values this is; None if it is another, or somebody's own."""
    return next((kind for kind, of in _OF_VALUES.items() if type(record) is of), None)


def _filled(kind: type[ConfigRecord | MetricRecord], values: dict[str, Any]) -> ConfigRecord | MetricRecord:
    """A record of values that one of its kind may have: flwr takes 2 µs to check each, and there is no way around."""
    record = kind()
    vars(record)["_data"].update(values)
    return record


def _is_kept(array: Array) -> bool:
    """Whether protobuf holds an array as it is."""
    return type(array.data) is bytes and _is_described(array)


def _is_described(array: Array) -> bool:
    """Whether protobuf holds what is said of an array as it is."""
    words = all(type(word) is str and word.isascii() for word in (array.dtype, array.stype))
    return words and all(type(size) is int and 0 <= size < _SIZES for size in array.shape)


def _holds_values(record: _Record) -> bool:
    """Whether protobuf holds all that a record says as it is; its lists may have been changed since it took them."""
    scalars = _NUMBERS if type(record) is MetricRecord else _SCALARS
    return all(key.isascii() and _is_value(value, scalars) for key, value in record.items())


def _is_value(value: object, scalars: Collection[type]) -> bool:
    """Whether protobuf holds a record's value as it is."""
    if type(value) is list:  # of one kind; an empty one has none
        return len({type(one) for one in value}) == 1 and all(_is_scalar(one, scalars) for one in value)
    return _is_scalar(value, scalars)


def _is_scalar(value: object, scalars: Collection[type]) -> bool:
    if type(value) not in scalars:
        return False
    if isinstance(value, int):
        return -_INTEGERS <= value < _INTEGERS
    return not isinstance(value, str) or value.isascii()


def _by_protobuf(content: RecordDict) -> RecordDict:
    """The bytes of arrays are copied once, where protobuf copies them half a dozen times."""
    arrays = (one for record in content.values() if isinstance(record, ArrayRecord) for one in record.values())
    if wrong := [one.data for one in arrays if not isinstance(one.data, bytes)]:
        raise TypeError(f"an array's data must be bytes, not {type(wrong[0]).__name__}")
    arrived = from_bytes(to_bytes(hollow(content)))
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            for key, array in arrived.array_records[name].items():
                array.data = bytes(memoryview(record[key].data))
    return arrived


def hollow(content: RecordDict) -> RecordDict:
    """What is said, without what is in arrays."""
    light = RecordDict()
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            said = {key: Array(one.dtype, tuple(one.shape), one.stype, b"") for key, one in record.items()}
            light[name] = ArrayRecord(said)
        else:
            light[name] = record
    return light


def give_id(message: Message, name: str) -> None:
    """Name a message, as a grid does when it pushes it; flwr has no public way."""
    message.metadata.__dict__["_message_id"] = name
