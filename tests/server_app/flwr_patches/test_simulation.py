"""What is spared flwr's simulation: the store of its grid as it is patched."""

from __future__ import annotations

from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from server_app.flwr_patches.simulation import ask_waiting_nodes_only, tell_of_replies
from strategies.exchange.messaging import Telling


class Store:
    """Of a grid, as far as it is patched."""

    def __init__(self) -> None:
        self.stored: list[Any] = []

    def store_message_res(self, message: Any) -> str:
        if message == "bad":
            raise ValueError(message)
        self.stored.append(message)
        return "a name"


@pytest.fixture
def grid() -> Any:
    made: Any = object.__new__(InMemoryGrid)
    made.state = Store()
    assert not isinstance(made, Telling)
    assert tell_of_replies(made)
    assert isinstance(made, Telling)
    return made


def test_a_wait_ends_when_a_reply_is_there(grid: Any) -> None:
    def later() -> None:
        sleep(0.1)
        assert grid.state.store_message_res("a reply") == "a name"

    thread, began = Thread(target=later), monotonic()
    thread.start()
    grid.wait_for_reply(30.0)
    assert grid.state.stored == ["a reply"]
    assert 0.09 < monotonic() - began < 20.0
    thread.join()


def test_a_reply_that_came_before_is_told_once(grid: Any) -> None:
    grid.state.store_message_res("a reply")
    began = monotonic()
    grid.wait_for_reply(30.0)
    assert monotonic() - began < 20.0
    began = monotonic()
    grid.wait_for_reply(0.05)
    assert monotonic() - began >= 0.049


def test_one_that_could_not_be_stored_is_looked_for(grid: Any) -> None:
    with pytest.raises(ValueError, match="bad"):
        grid.state.store_message_res("bad")
    began = monotonic()
    grid.wait_for_reply(30.0)
    assert monotonic() - began < 20.0


def test_other_grids_are_left_alone() -> None:
    class HttpGrid:
        state = Store()

    other: Any = HttpGrid()
    assert not tell_of_replies(other)
    assert not ask_waiting_nodes_only(other)
    assert not isinstance(other, Telling)
