"""Replies that nobody looks for at first, because the server does something else: on a clock of the test's own."""

from __future__ import annotations

from typing import cast

import pytest
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from flotilla.flwr_compat.identity import assume_identity
from strategies.exchange.limit import Limit
from strategies.exchange.messaging import exchange
from strategies.exchange.wait_times import WaitTimes
from tests.strategies.exchange.test_waiting import TimedGrid


def late_look(
    grid: TimedGrid, seconds: float, busy: float, limit: Limit | None = None, needed: int | None = None
) -> tuple[list[tuple[int, bool, float]], WaitTimes]:
    """As `play_out`, with something else to do first."""
    assume_identity()
    taken: list[tuple[int, bool, float]] = []
    messages = [Message(RecordDict(), dst_node_id=i + 1, message_type="train.part") for i in range(len(grid.arrivals))]

    def work() -> None:
        grid.time += busy

    waited = exchange(
        cast(Grid, grid),
        messages,
        lambda i, reply: taken.append((i, reply is not None, grid.time)),
        seconds=seconds,
        limit=limit,
        enough=None if needed is None else lambda: sum(there for _, there, _ in taken) >= needed,
        sent=work,
        clock=grid.clock,
    )
    return taken, waited


def test_what_is_done_meanwhile_takes_nothing_from_the_time_to_reply() -> None:
    """Of what had come, nobody knows when; the deadline counts from the sending."""
    grid = TimedGrid([1.0, 9.0, None])
    taken, waited = late_look(grid, 10.0, busy=4.0)
    assert [there for _, there, _ in taken] == [True, True, False]
    assert taken[-1][2] == pytest.approx(10.0, abs=0.2)
    assert waited.busy == waited.to_row()["busy"] == 4.0
    assert waited.unseen == {0}
    assert waited.arrived[1] == pytest.approx(9.0, abs=0.2)


def test_who_replied_in_time_counts_although_nobody_looked_before_the_deadline() -> None:
    taken, waited = late_look(TimedGrid([float(i) for i in range(40)] + [None]), 50.0, busy=60.0)
    assert [there for _, there, _ in taken] == [True] * 40 + [False]
    assert waited.unseen == set(range(40))


def test_an_error_in_what_is_done_meanwhile_withdraws_the_requests() -> None:
    grid = TimedGrid([1.0, None])

    def work() -> None:
        raise ValueError("no more")

    assume_identity()
    messages = [Message(RecordDict(), dst_node_id=i + 1, message_type="train.part") for i in range(2)]
    with pytest.raises(ValueError, match="no more"):
        exchange(cast(Grid, grid), messages, lambda i, reply: None, seconds=1.0, sent=work, clock=grid.clock)
    assert grid.withdrawn == {"m0", "m1"}
    assert not grid.gone


@pytest.mark.parametrize("needed", [None, 4], ids=["in order", "as they come"])
def test_what_was_done_meanwhile_is_no_time_that_nodes_take(needed: int | None) -> None:
    """Devices take 5 s, one is dead, and the server was busy for two minutes: it looks one minute more, not four."""
    grid = TimedGrid([5.0, 5.0, None, 5.0])
    taken, waited = late_look(grid, 1800.0, 120.0, Limit(factor=3.0, known=6.0, least=60.0), needed)
    assert [there for i, there, _ in sorted(taken)] == [True, True, False, True]
    assert waited.unseen == {0, 1, 3}
    assert grid.time == pytest.approx(180.0, abs=0.2)


@pytest.mark.parametrize("needed", [None, 3], ids=["in order", "as they come"])
@pytest.mark.parametrize("busy", [0.0, 60.0])
def test_nobody_is_given_up_at_the_first_look(busy: float, needed: int | None) -> None:
    """Whoever takes 61 s has them, after 14 s that are known times 4 and a look that comes later than that."""
    limit = Limit(factor=4.0, known=14.0, least=30.0)
    taken, _ = late_look(TimedGrid([12.0, 20.0, 61.0]), 1000.0, busy, limit, needed)
    assert [there for _, there, _ in sorted(taken)] == [True, True, True]


def test_where_nothing_is_known_a_look_is_a_bound() -> None:
    """Ten times what the others took, who were there after 100 s at the latest."""
    grid = TimedGrid([5.0, 700.0, None])
    taken, _ = late_look(grid, 1800.0, 100.0, Limit(replies=1, factor=10.0, least=60.0))
    assert [there for _, there, _ in taken] == [True, True, False]
    grid = TimedGrid([5.0, 110.0, None])  # the second one was looked for
    taken, _ = late_look(grid, 1800.0, 100.0, Limit(replies=1, factor=2.0, least=60.0))
    assert [there for _, there, _ in taken] == [True, True, False]
    assert grid.time == pytest.approx(220.0, abs=0.5)
