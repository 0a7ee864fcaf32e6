"""Arrays of messages through Ray: the bytes that they were, put into its store once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from ray import cloudpickle

from client_app.mods import REPLIES_ARE_COPIED
from flotilla.flwr_compat import ray_arrays
from flotilla.flwr_compat.views import ViewsOfStore

_dumps: Any = cloudpickle.dumps
LARGE = np.arange(ray_arrays.LEAST, dtype=np.uint8)


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    with patch.dict(cloudpickle.CloudPickler.dispatch), patch.dict(os.environ):
        yield


def content(*arrays: Array) -> RecordDict:
    return RecordDict(
        {"arrays": ArrayRecord({f"{i}": array for i, array in enumerate(arrays)}), "said": ConfigRecord({"n": 1})}
    )


def array_of(received: RecordDict) -> Array:
    record = received["arrays"]
    assert isinstance(record, ArrayRecord)
    return record["0"]


def data_of(received: RecordDict) -> Any:
    return array_of(received).data


def pickled(value: object) -> tuple[bytes, list[Any]]:
    beside: list[Any] = []
    return _dumps(value, protocol=5, buffer_callback=beside.append), beside


def test_large_data_lie_beside_the_pickle_and_come_back_as_bytes() -> None:
    sent = content(Array(LARGE), Array(LARGE[:100]))
    whole, _ = pickled(sent)
    ray_arrays.beside_pickles()
    small, beside = pickled(sent)
    assert len(beside) == 1
    assert len(small) < len(whole) - len(LARGE)
    found = cloudpickle.loads(small, buffers=[memoryview(one.raw().tobytes()) for one in beside])
    assert found == sent
    assert [type(array.data) for array in found["arrays"].values()] == [bytes, bytes]
    assert np.array_equal(found["arrays"]["0"].numpy(), LARGE)


def test_a_view_is_a_view_of_what_arrived() -> None:
    ray_arrays.beside_pickles()
    kept = bytearray(LARGE.tobytes())
    array = Array(LARGE)
    array.data = memoryview(kept)[:5]  # type: ignore[assignment]
    record = ArrayRecord()
    record["0"] = array
    sent = RecordDict({"arrays": record})
    small, beside = pickled(sent)
    (arrived,) = [one.raw().tobytes() for one in beside]
    kept[:] = bytes(len(kept))  # the next reply is written there
    data = cloudpickle.loads(small, buffers=[arrived])["arrays"]["0"].data
    assert (type(data), bytes(data)) == (memoryview, LARGE.tobytes()[:5])
    assert data.obj is arrived
    kept[:5] = LARGE.tobytes()[:5]
    assert bytes(cloudpickle.loads(_dumps(sent, protocol=4))["arrays"]["0"].data) == LARGE.tobytes()[:5]


def test_views_of_the_store_are_copied_where_they_become_many() -> None:
    views = ViewsOfStore(most=250)

    def received() -> RecordDict:
        found = content(Array(LARGE))
        array_of(found).data = memoryview(bytes(100))  # type: ignore[assignment]
        views.admit(found)
        return found

    held = [received() for _ in range(3)]
    assert [type(data_of(one)) for one in held] == [memoryview, memoryview, bytes]
    looked_at = np.frombuffer(data_of(held[0]), dtype=np.uint8)
    held.clear()
    assert views._bytes == 100  # whoever looks at it may do so longer than there is a message
    del looked_at
    assert views._bytes == 0
    assert isinstance(data_of(received()), memoryview)
    whole = content(Array(LARGE))
    views.admit(whole)
    assert isinstance(data_of(whole), bytes)


def test_a_worker_tells_its_client_app_that_replies_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ray_arrays.REPLIES_ARE_COPIED, raising=False)
    ray_arrays.beside_pickles()
    assert ray_arrays.REPLIES_ARE_COPIED == REPLIES_ARE_COPIED
    assert REPLIES_ARE_COPIED in os.environ


def test_without_a_place_beside_they_are_in_it() -> None:
    ray_arrays.beside_pickles()
    sent = content(Array(LARGE))
    for protocol in (4, 5):
        assert cloudpickle.loads(_dumps(sent, protocol=protocol)) == sent


def test_a_state_is_put_into_the_store_once() -> None:
    put: list[bytes] = []

    def store(data: bytes) -> int:
        put.append(data)
        return len(put) - 1

    with patch("ray.put", store), patch("ray.get", _get):
        ray_arrays.once_in_store()
        state, other = Array(LARGE), Array(LARGE[::-1].copy())
        sent = [content(state, Array(LARGE[:5])), content(state), content(other), content(state)]
        frames = [pickled(one)[0] for one in sent]
        assert len(put) == 2
        assert all(len(frame) < len(LARGE) for frame in frames)
        _put[:] = put
        assert [cloudpickle.loads(frame) for frame in frames] == sent


_put: list[bytes] = []


def _get(place: int) -> bytes:
    return _put[place]


def test_the_store_keeps_no_more_than_so_much() -> None:
    with patch("ray.put", lambda data: len(data)), patch.object(ray_arrays, "_MOST", 250):
        store = ray_arrays._Store()
        states = [bytes([i]) * 100 for i in range(4)]
        for state in states:
            store(state)
        assert [data for data, _ in store._known.values()] == states[2:]
        store(states[2])
        store(b"x" * 1000)
        assert [len(data) for data, _ in store._known.values()] == [1000]
        assert store._bytes == 1000
