"""Where a reply's arrays are written: in an engine's memory, if there is room, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st

from models.randomness import generator
from protocol import decode, encode
from protocol.arrays import vector_in
from protocol.codecs import CodecSettings, codec_of
from protocol.codecs.base import NOTHING
from protocol.reply_room import REPLY_ROOM, KeptRoom, ReplyRoom, replies_in

FLAT = torch.arange(1000, dtype=torch.float32)


def reply(flat: torch.Tensor, name: str = "float32") -> Array:
    return codec_of(CodecSettings(name=name)).encode(flat, [len(flat)], generator(1, 1, 1, "codec"), NOTHING)


def test_a_reply_is_written_where_the_engine_has_room() -> None:
    memory = bytearray(3 * 4200)
    room = ReplyRoom(memoryview(memory))
    alone = reply(FLAT)
    with replies_in(room):
        first, second = reply(FLAT), reply(-FLAT)
    assert REPLY_ROOM.get() is None
    assert [room.start_of(one.data) for one in (first, second, alone)] == [0, len(alone.data), None]
    assert room.used == 2 * len(alone.data)
    assert memory[: len(alone.data)] == alone.data
    assert torch.equal(decode(first, 1000), FLAT)
    assert torch.equal(decode(second, 1000), -FLAT)
    assert (alone.dtype, alone.shape, alone.stype) == (first.dtype, first.shape, first.stype)


def test_a_vector_in_the_room_is_not_copied() -> None:
    room = ReplyRoom(memoryview(bytearray(2 * 4200)))
    codec, expected = codec_of(CodecSettings(name="float32")), reply(FLAT)
    with replies_in(room):
        place = codec.place(room, 1000)
        assert place is not None
        torch.mul(FLAT, 1.0, out=place)
        used = room.used
        found, copied = reply(place), reply(FLAT.clone())
        assert codec.place(room, 3000) is None  # it does not fit any more
        assert codec_of(CodecSettings(name="float16")).place(room, 10) is None
    assert (room.start_of(found.data), used) == (0, len(expected.data))
    assert room.start_of(copied.data) == used
    assert (bytes(found.data), bytes(copied.data)) == (expected.data, expected.data)
    assert (found.dtype, found.shape, found.stype) == (expected.dtype, expected.shape, expected.stype)


def test_a_part_of_such_a_vector_is_another() -> None:
    room = ReplyRoom(memoryview(bytearray(9000)))
    with replies_in(room):
        place = vector_in(room, 1000)
        assert place is not None
        place.copy_(FLAT)
        found = reply(place[:10])
    assert torch.equal(decode(found, 10), FLAT[:10])


def test_what_does_not_fit_has_memory_of_its_own() -> None:
    room = ReplyRoom(memoryview(bytearray(100)))
    with replies_in(room):
        found = reply(FLAT)
    assert (type(found.data), room.used) == (bytes, 0)
    assert torch.equal(decode(found, 1000), FLAT)


def test_what_is_no_reply_is_not_written_there() -> None:
    room = ReplyRoom(memoryview(bytearray(10_000)))
    with replies_in(room):
        assert isinstance(encode(FLAT).data, bytes)  # of a client's state, for one
        assert isinstance(reply(FLAT, "float16").data, bytes)
    assert room.used == 0


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=6))
def test_kept_memory_is_used_again_and_no_reply_overlaps_another(lengths: list[int]) -> None:
    room = KeptRoom()
    assert [room.take(length) for length in lengths] == [None] * len(lengths)
    before = None
    for _ in range(2):
        room.clear()
        places = [place for length in lengths if (place := room.take(length)) is not None]
        for number, place in enumerate(places):
            place[:] = bytes([number + 1]) * len(place)
        assert [bytes(place) for place in places] == [bytes([i + 1]) * n for i, n in enumerate(lengths)]
        assert {place.obj is before for place in places} == {before is not None}
        before = places[0].obj


def test_a_room_that_is_left_is_not_written_to() -> None:
    room = ReplyRoom(memoryview(bytearray(10_000)))
    with pytest.raises(KeyError), replies_in(room):
        raise KeyError
    assert isinstance(reply(FLAT).data, bytes)
