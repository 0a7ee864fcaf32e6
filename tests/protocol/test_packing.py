"""Messages in fewer objects are the same messages, and what a peer packs is not trusted."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given
from hypothesis import strategies as st

from flotilla.flwr_compat.identity import assume_identity
from flotilla.flwr_compat.messages import from_bytes, to_bytes
from protocol import WireError
from protocol.packing import PACKED, Packer, pack, unpack

STATE = np.arange(6, dtype=np.float32)


def request(state: ArrayRecord, number: int = 0) -> RecordDict:
    return RecordDict({"arrays": state, "request": ConfigRecord({"seed": number, "plan": "{}", "a/b:c=d": [1, 2]})})


def reply() -> RecordDict:
    return RecordDict(
        {
            "config": ConfigRecord({"nonce": "n", "b": b"\0\n", "yes": True, "some": [0.5]}),
            "metrics": MetricRecord({"loss": 0.25, "num-examples": 7, "each": [1, 2]}),
            "arrays": ArrayRecord({"difference": Array(STATE)}),
        }
    )


def objects(content: RecordDict) -> int:
    assume_identity()
    return len(get_all_nested_objects(Message(content, dst_node_id=1, message_type="train.part")))


def test_they_are_the_same_over_the_wire() -> None:
    for content, packed in ((reply(), pack(reply())), (request(s := ArrayRecord([STATE])), Packer().pack(request(s)))):
        assert PACKED in packed
        again = unpack(from_bytes(to_bytes(packed)))
        assert again == content
        assert {name: type(record) for name, record in again.items()} == {
            name: type(record) for name, record in content.items()
        }


def test_how_many_objects() -> None:
    assert (objects(reply()), objects(pack(reply()))) == (7, 3)
    state = ArrayRecord([STATE])
    assert (objects(request(state)), objects(Packer().pack(request(state)))) == (6, 4)


def test_a_shared_state_stays_one_object() -> None:
    packer, state = Packer(), ArrayRecord([STATE])
    one, other = packer.pack(request(state, 1)), packer.pack(request(state, 2))
    assert one["packed-arrays"] is other["packed-arrays"]
    assert one[PACKED] != other[PACKED]


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({"request": ConfigRecord({"a": 1})}),  # three objects already
        RecordDict({"a": ConfigRecord({"a": 1}), "b": ConfigRecord()}),  # an empty one would be lost
        RecordDict({"a/b": ConfigRecord({"a": 1}), "b": ConfigRecord({"a": 1})}),
        RecordDict({"a": ConfigRecord({"a": 1}), "b": ArrayRecord([np.zeros((1 << 22) + 1, np.uint8)])}),
        RecordDict(),
    ],
)
def test_what_goes_as_it_is(content: RecordDict) -> None:
    assert pack(content) is content
    assert Packer().pack(content) is content


SAID = b'["float32", [6], "numpy.ndarray"]\n'
REFUSED: dict[str, RecordDict] = {
    "another kind": RecordDict({PACKED: MetricRecord({"a": 1})}),
    "another record": RecordDict({PACKED: ConfigRecord({"a/b": 1}), "more": ConfigRecord({"a": 1})}),
    "no record": RecordDict({PACKED: ConfigRecord({"a": 1})}),
    "an empty record": RecordDict({PACKED: ConfigRecord({"/a": 1})}),
    "two kinds": RecordDict({PACKED: ConfigRecord({"a/b": 1, "a:b": 1})}),
    "a text as a number": RecordDict({PACKED: ConfigRecord({"a:b": "1"})}),
    "a text as an array": RecordDict({PACKED: ConfigRecord({"a=b": "1"})}),
    "no shape": RecordDict({PACKED: ConfigRecord({"a=b": b"data"})}),
    "half a shape": RecordDict({PACKED: ConfigRecord({"a=b": b'["float32", [6]]\n'})}),
    "a deep shape": RecordDict({PACKED: ConfigRecord({"a=b": b"[" * 900 + b"\n"})}),
    "a negative side": RecordDict({PACKED: ConfigRecord({"a=b": SAID.replace(b"6", b"-6")})}),
    "a side that is no number": RecordDict({PACKED: ConfigRecord({"a=b": SAID.replace(b"6", b"true")})}),
    "a number as a type": RecordDict({PACKED: ConfigRecord({"a=b": SAID.replace(b'"float32"', b"1")})}),
    "much said": RecordDict({PACKED: ConfigRecord({"a=b": b" " * 2000 + SAID})}),
    "many records": RecordDict({PACKED: ConfigRecord(), **{f"packed-{i}": ConfigRecord() for i in range(20)}}),
    "many fields": RecordDict({PACKED: ConfigRecord({f"a/{i}": i for i in range(20_000)})}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_peer_packs_is_checked(name: str) -> None:
    with pytest.raises(WireError):
        unpack(REFUSED[name])


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.binary(max_size=60), st.integers(-9, 9), st.text(max_size=9))))
def test_nothing_else_is_raised(fields: dict[str, Any]) -> None:
    with suppress(WireError):
        unpack(RecordDict({PACKED: ConfigRecord(fields)}))
