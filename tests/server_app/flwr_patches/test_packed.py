"""Messages are packed while flwr pushes them, and whole for everybody else."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.superlink.grid import http_grid

from flotilla.flwr_compat.identity import assume_identity
from protocol.packing import PACKED, Packer, pack
from server_app.flwr_patches.packed import pack_messages


class HttpGrid:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.pushed: list[RecordDict] = []
        self.replies: list[Message] = []
        self.fails = False

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        if self.fails:
            raise ConnectionError
        for message in messages:
            message.metadata.__dict__["_message_id"] = "m"
            self.pushed.append(message.content)
        return ["m"]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self.replies


CONTENT = RecordDict({"arrays": ArrayRecord([np.zeros(3)]), "request": ConfigRecord({"a": 1})})


def asked() -> Message:
    assume_identity()
    return Message(CONTENT, dst_node_id=1, message_type="train.part")


@pytest.fixture
def grid() -> Any:
    made: Any = HttpGrid()
    assert pack_messages(made)
    return made


def test_requests_are_packed_on_their_way_only(grid: Any) -> None:
    message = asked()
    assert grid.push_messages(iter([message])) == ["m"]
    assert PACKED in grid.pushed[0]
    assert message.content is CONTENT
    assert message.metadata.message_id == "m"
    grid.fails = True
    with pytest.raises(ConnectionError):
        grid.push_messages([message])
    assert message.content is CONTENT


def test_replies_come_whole(grid: Any) -> None:
    (message,) = grid.replies = [asked()]
    message.content = pack(CONTENT)
    assert grid.pull_messages([])[0].content == CONTENT


def test_one_that_does_not_read_stays_what_it_is(grid: Any) -> None:
    (message,) = grid.replies = [asked()]
    message.content = bad = RecordDict({PACKED: ConfigRecord({"a": 1})})
    assert grid.pull_messages([])[0].content is bad


def test_a_simulations_grid_is_left_alone() -> None:
    assert not pack_messages(type("InMemoryGrid", (HttpGrid,), {})())


def test_flwrs_grid_is_what_is_patched() -> None:
    assert http_grid.HttpGrid.__name__ == "HttpGrid"
    for name, argument in (("push_messages", "messages"), ("pull_messages", "message_ids")):
        assert list(inspect.signature(getattr(http_grid.HttpGrid, name)).parameters) == ["self", argument]
    assert "self.push_messages(" in inspect.getsource(http_grid.HttpGrid.send_and_receive)
    assert Packer().pack(CONTENT) != CONTENT
