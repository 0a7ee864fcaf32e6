from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from hypothesis import given, settings
from hypothesis import strategies as st

from flotilla.flwr_compat.identity import assume_identity
from strategies.exchange.messaging import LONGEST_PAUSE, exchange
from tests.support import Time

Arrivals = Callable[[list[str]], list[Message]]


class FakeGrid:
    """Replies arrive as a test says; `asked` is what every pull asked for."""

    def __init__(self, arrivals: Callable[[FakeGrid, list[str]], list[Message]], lost: Iterable[int] = ()) -> None:
        self._arrivals, self._lost = arrivals, set(lost)
        self.requests: dict[str, Message] = {}
        self.asked: list[list[str]] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for i, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{i}"
            if i not in self._lost:
                self.requests[f"m{i}"] = message
        return list(self.requests)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.asked.append(list(message_ids))
        return self._arrivals(self, self.asked[-1])

    def reply(self, message_id: str) -> Message:
        return Message(RecordDict({"config": ConfigRecord({"to": message_id})}), reply_to=self.requests[message_id])


def requests(count: int) -> list[Message]:
    assume_identity()
    return [Message(RecordDict(), dst_node_id=i + 1, message_type="train.part") for i in range(count)]


def run(
    grid: FakeGrid, count: int, seconds: float = 3600.0, **options: Any
) -> tuple[list[tuple[int, str | None]], list[str]]:
    """What was taken, as (position, the message that the reply answers), and what was odd."""
    taken: list[tuple[int, str | None]] = []
    odd: list[str] = []

    def take(i: int, reply: Message | None) -> None:
        taken.append((i, None if reply is None else str(reply.content.config_records["config"]["to"])))

    exchange(
        cast(Grid, grid), requests(count), take, seconds=seconds, odd=lambda _, reason: odd.append(reason), **options
    )
    return taken, odd


def in_place(count: int) -> list[tuple[int, str | None]]:
    return [(i, f"m{i}") for i in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 8), st.randoms(use_true_random=False))
def test_replies_are_taken_in_the_order_of_the_messages(count: int, window: int, order: Any) -> None:
    """However they arrive: some now, some later, in any order."""

    def arrivals(grid: FakeGrid, asked: list[str]) -> list[Message]:
        some = [message_id for message_id in asked if order.random() < 0.7] or asked
        order.shuffle(some)
        return [grid.reply(message_id) for message_id in some]

    grid = FakeGrid(arrivals)
    assert run(grid, count, window=window) == (in_place(count), [])
    assert all(0 < len(asked) <= window for asked in grid.asked)


def test_the_window_bounds_what_is_held() -> None:
    """While the first is out, no more than the window behind it are asked for, so no more can be held."""
    seen: set[str] = set()

    def arrivals(grid: FakeGrid, asked: list[str]) -> list[Message]:
        seen.update(asked)
        if len(grid.asked) < 10:
            asked = [message_id for message_id in asked if message_id != "m0"]
            assert seen <= {f"m{i}" for i in range(4)}
        return [grid.reply(message_id) for message_id in asked]

    assert run(FakeGrid(arrivals), 12, window=4) == (in_place(12), [])


def test_the_deadline_holds_although_nothing_arrives() -> None:
    time = Time()
    taken, odd = run(FakeGrid(lambda grid, asked: []), 40, seconds=0.2, window=4, clock=time.clock)
    assert taken == [(i, None) for i in range(40)]
    assert not odd
    assert 0.2 <= time.seconds <= 0.2 + LONGEST_PAUSE


def test_what_has_arrived_at_the_deadline_is_taken() -> None:
    def arrivals(grid: FakeGrid, asked: list[str]) -> list[Message]:
        return [grid.reply(message_id) for message_id in asked if message_id != "m0"]

    taken, _ = run(FakeGrid(arrivals), 40, seconds=0.1, window=4, clock=Time().clock)
    assert taken == [(0, None), *in_place(40)[1:]]


def test_duplicates_and_strangers_are_odd() -> None:
    def arrivals(grid: FakeGrid, asked: list[str]) -> list[Message]:
        stranger = grid.reply(asked[0])
        stranger.metadata.__dict__["_reply_to_message_id"] = "elsewhere"
        first = [grid.reply("m0")] if asked[0] != "m0" else []
        return [grid.reply(asked[0]), grid.reply(asked[0]), stranger, *first]

    taken, odd = run(FakeGrid(arrivals), 3)
    assert taken == in_place(3)
    assert sorted(odd) == ["duplicate"] * 5 + ["unknown"] * 3


def test_a_reply_that_was_not_asked_for_yet_is_odd() -> None:
    def arrivals(grid: FakeGrid, asked: list[str]) -> list[Message]:
        return [grid.reply(message_id) for message_id in ([*asked, "m5"] if len(grid.asked) == 1 else asked)]

    taken, odd = run(FakeGrid(arrivals), 6, window=2)
    assert taken == in_place(6)
    assert odd == ["unknown"]


def test_what_was_not_delivered_is_not_waited_for() -> None:
    grid = FakeGrid(lambda grid, asked: [grid.reply(message_id) for message_id in asked], lost=[0, 3, 4])
    time = Time()
    taken, _ = run(grid, 6, seconds=30, window=2, clock=time.clock)
    assert taken == [(0, None), (1, "m1"), (2, "m2"), (3, None), (4, None), (5, "m5")]
    assert time.seconds == 0.0
    assert not {"m0", "m3", "m4"} & {message_id for asked in grid.asked for message_id in asked}


@pytest.mark.parametrize("count", [0, 1])
def test_few_messages(count: int) -> None:
    grid = FakeGrid(lambda grid, asked: [grid.reply(message_id) for message_id in asked])
    assert run(grid, count) == (in_place(count), [])


@pytest.mark.parametrize("options", [{}, {"enough": lambda: False}])
def test_a_reply_is_gone_when_its_taking_is_told(options: dict[str, Any]) -> None:
    """Who goes on with replies that lay in a file then has no other one in memory."""
    made: list[weakref.ref[Message]] = []
    alive: list[int] = []

    def arrivals(grid: FakeGrid, asked: list[str]) -> list[Message]:
        reply = grid.reply(asked[0])
        made.append(weakref.ref(reply))
        return [reply]

    def told() -> None:
        alive.append(sum(one() is not None for one in made))

    taken, _ = run(FakeGrid(arrivals), 5, taken=told, **options)
    assert taken == in_place(5)
    assert alive == [0] * 5


class TellingGrid(FakeGrid):
    """It says when replies come: one at every other wait, which is as long as it is in `waits`."""

    def __init__(self, time: Time) -> None:
        self.come, self.waits, self._time = set[str](), list[float](), time
        super().__init__(lambda grid, asked: [grid.reply(one) for one in asked if one in self.come])

    def wait_for_reply(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) % 2:
            self._time.sleep(seconds)
        else:
            self.come.add(f"m{len(self.come)}")


def test_nobody_looks_where_the_grid_says_that_a_reply_came() -> None:
    time = Time()
    grid = TellingGrid(time)
    assert run(grid, 6, clock=time.clock) == (in_place(6), [])
    assert grid.waits == [LONGEST_PAUSE] * 12
    assert len(grid.asked) == 3 * 6  # after a wait in vain, after one that was told, and for what came with that
    assert time.seconds == pytest.approx(6 * LONGEST_PAUSE)


def test_a_wait_that_is_told_of_a_reply_is_as_long_as_it_was() -> None:
    time = Time()
    grid, clock = TellingGrid(time), time.clock
    waited = exchange(cast(Grid, grid), requests(2), lambda i, reply: None, seconds=60.0, clock=clock)
    assert waited.replies == 2
    assert waited.max_sleep == 0.0  # not the tenth of a second that it might have been


def test_the_deadline_holds_where_the_grid_says_nothing() -> None:
    time = Time()
    grid = TellingGrid(time)
    grid.wait_for_reply = time.sleep  # type: ignore[method-assign]
    taken, _ = run(grid, 3, seconds=0.25, clock=time.clock)
    assert taken == [(i, None) for i in range(3)]
    assert time.seconds == pytest.approx(0.25)
