"""A reply that flwr cannot make a message of is an error reply; the others of the batch are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.superlink.grid import http_grid

from server_app.flwr_patches.unreadable import refuse_unreadable


@pytest.fixture(autouse=True)
def flwr_comes_back() -> Iterator[None]:
    names = ("pull_objects", "inflate_object_from_contents")
    with patch.multiple(http_grid, **{name: getattr(http_grid, name) for name in names}):
        yield


def reply_to(request: str) -> Message:
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=7,
        dst_node_id=1,
        reply_to_message_id=request,
        group_id="1",
        created_at=1.0,
        ttl=60.0,
        message_type="train.part",
    )
    content = RecordDict({"arrays": ArrayRecord({request: Array(np.full(3, len(request), dtype=np.float32))})})
    return make_message(metadata=metadata, content=content)


def fetched(damage: Callable[[bytes], bytes]) -> list[Message]:
    """Two replies in one batch, the array of the first of which is damaged."""
    contents: dict[str, bytes] = {}
    protos, trees = [], []
    for request in ("first", "second"):
        reply = reply_to(request)
        for name, one in get_all_nested_objects(reply).items():
            data = one.deflate()
            contents[name] = damage(data) if request == "first" and isinstance(one, Array) else data
        reply.metadata.__dict__["_message_id"] = reply.object_id
        protos.append(message_to_proto(reply))
        trees.append(get_object_tree(reply))
    client: Any = SimpleNamespace(
        PullMessages=lambda request: SimpleNamespace(messages_list=protos, message_object_trees=trees),
        PullObject=None,
        ConfirmMessageReceived=lambda request: None,
    )
    grid = http_grid.HttpGrid(token="of no use")
    grid._run = SimpleNamespace(run_id=1)  # type: ignore[assignment]
    with (
        patch.object(http_grid, "make_pull_object_fn_protobuf", lambda **named: contents.__getitem__),
        patch.object(type(grid), "_runtime_client", client),
    ):
        return list(grid.pull_messages(["first", "second"]))


def no_json(data: bytes) -> bytes:
    return data[:-5]


def another_type(data: bytes) -> bytes:
    start = data.rindex(b"{")
    return data[:start] + json.dumps(dict.fromkeys(json.loads(data[start:]), 0)).encode()


@pytest.mark.parametrize("damage", [no_json, another_type, lambda data: b"", lambda data: b"\0" * 100])
def test_it_is_an_error_reply(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - flwr's own, of many kinds
        fetched(damage)
    assert refuse_unreadable()
    first, second = fetched(damage)
    assert first.has_error()
    assert first.metadata.reply_to_message_id == "first"
    assert "cannot be read" in (first.error.reason or "")
    assert second.content.array_records["arrays"]["second"].numpy().tolist() == [6, 6, 6]


def test_what_can_be_read_comes_as_before() -> None:
    assert refuse_unreadable()
    assert not refuse_unreadable()
    first, second = fetched(lambda data: data)
    assert [one.metadata.reply_to_message_id for one in (first, second)] == ["first", "second"]
    assert first.content.array_records["arrays"]["first"].numpy().tolist() == [5, 5, 5]


def test_another_flwr_is_left_alone() -> None:
    with patch.object(http_grid, "inflate_object_from_contents", None):
        assert not refuse_unreadable()
