"""Messages and records outside of a SuperLink: their bytes, their ids, and the codes of their errors."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.error_pb2 import Error as ErrorProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

CLIENT_APP_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
CLIENT_APP_CRASHED = int(ErrorCode.CLIENT_APP_CRASHED)


def to_bytes(content: RecordDict) -> bytes:
    """Serialise a record as flwr does on the wire."""
    data: bytes = recorddict_to_proto(content).SerializeToString()
    return data


def from_bytes(data: bytes) -> RecordDict:
    """Parse what `to_bytes` made."""
    return recorddict_from_proto(RecordDictProto.FromString(data))


def error_as_sent(code: int, reason: str) -> Error:
    """An error as it arrives from a real engine: what protobuf cannot hold ends the client's process instead."""
    try:
        sent = ErrorProto.FromString(ErrorProto(code=code, reason=reason).SerializeToString())
    except UnicodeError:
        return Error(CLIENT_APP_CRASHED, "the client's error cannot be sent")
    return Error(sent.code, sent.reason)


def through_the_wire(content: RecordDict) -> RecordDict:
    """Serialise and parse, so that whatever would not survive the wire does not survive here.

    The bytes of arrays are copied once, where protobuf copies them half a dozen times.
    """
    light = RecordDict(
        {name: _without_bytes(one) if isinstance(one, ArrayRecord) else one for name, one in content.items()}
    )
    arrived = from_bytes(to_bytes(light))
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            for key, array in arrived.array_records[name].items():
                array.data = bytes(memoryview(record[key].data))
    return arrived


def _without_bytes(record: ArrayRecord) -> ArrayRecord:
    """What is said of arrays, without what is in them."""
    if wrong := [array.data for array in record.values() if not isinstance(array.data, bytes)]:
        raise TypeError(f"an array's data must be bytes, not {type(wrong[0]).__name__}")
    return ArrayRecord({key: Array(one.dtype, one.shape, one.stype, b"") for key, one in record.items()})


def give_id(message: Message, name: str) -> None:
    """Name a message, as a grid does when it pushes it; flwr has no public way."""
    message.metadata.__dict__["_message_id"] = name
