"""Nodes that are online and do not answer: the round's time limit is not paid for them every round."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import Message

from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome
from strategies.nodes.patience import LEAST, UNHEARD, Patience
from strategies.settings import Settings
from strategies.virtual.devices import VirtualFleet
from tests.faults.changes import FOUR, VICTIM
from tests.support import Player, Time, trains
from tests.support import play as play_in

EIGHT: dict[str, Any] = {**FOUR, "num_server_rounds": 8, "tiers": "a:1"}


def silent(request: Message, reply: Message) -> list[Message]:
    """The victim answers everything but a request to train."""
    return [] if trains(request, VICTIM) else [reply]


def test_who_does_not_train_is_asked_less_and_less_often_and_not_waited_for_an_hour(
    play: Player, own_time: Time
) -> None:
    """At the defaults: a minute for each time that it is asked, which is in rounds 1, 2, 4 and 8."""
    out = play(silent, **EIGHT)
    assert [row["round"] for row in out.rows if VICTIM in row["selected"]] == [1, 2, 4, 8]
    assert [row["round"] for row in out.rows if row.get("resting") == [VICTIM]] == [3, 5, 6, 7]
    assert [row["accepted"] for row in out.rows] == [3] * 8
    assert {one["reason"] for one in out.rejected} == {"late: no reply before the deadline"}
    assert own_time.seconds < 4 * LEAST + 5


@pytest.mark.usefixtures("own_time")
def test_a_resumed_run_asks_as_the_uninterrupted_one(play: Player) -> None:
    whole = play(silent, **EIGHT)
    half = play(silent, **EIGHT | {"num_server_rounds": 4})
    again = play_in(half.path, silent, resume=str(half.path), **EIGHT)
    assert again.hash == whole.hash
    assert [row["selected"] for row in again.rows] == [row["selected"] for row in whole.rows]


@pytest.mark.usefixtures("own_time")
def test_a_silence_that_ends_costs_nothing_later(play: Player) -> None:
    """Two rounds in a row, then it is back: one round goes by without it."""

    def faults(request: Message, reply: Message) -> list[Message]:
        return [] if trains(request, VICTIM, [1, 2]) else [reply]

    rows = play(faults, **EIGHT).rows
    assert [VICTIM in row["selected"] for row in rows] == [True, True, False, *[True] * 5]
    assert [row["accepted"] for row in rows] == [3, 3, 3, 4, 4, 4, 4, 4]


@pytest.mark.usefixtures("own_time")
def test_nobody_rests_where_too_few_would_be_left(play: Player) -> None:
    """Three of four are silent, and the run needs two: they are asked every round, however long they have been."""

    def faults(request: Message, reply: Message) -> list[Message]:
        return [] if any(trains(request, node) for node in (1, 2, 3)) else [reply]

    rows = play(faults, **EIGHT | {"num_server_rounds": 4, "quorum": 0.1}).rows
    assert [len(row["selected"]) for row in rows] == [4, 4, 4, 4]


def limits(patience: Patience, tiers: set[str], *came: tuple[int, float]) -> list[float]:
    limit = patience.limit(range(10), tiers)
    assert limit is not None
    return [limit.seconds(1800.0, *one) for one in came]


def after(patience: Patience, number: int, seconds: dict[str, float]) -> None:
    patience.learn(RoundOutcome(report=RoundReport(number=number), accepted=(), arrival_seconds=seconds))


def test_the_limit_follows_what_rounds_took() -> None:
    patience = Patience(Settings())
    # Nothing is known: the whole deadline until half of them have replied, then ten times the last one.
    assert limits(patience, {"a", "b"}, (0, 0.0), (4, 20.0), (5, 20.0), (9, 2.0)) == [1800, 1800, UNHEARD * 20, LEAST]
    after(patience, 1, {"a": 100.0, "b": 30.0})
    assert limits(patience, {"a", "b"}, (0, 0.0), (5, 150.0), (9, 900.0)) == [300, 450, 1800]
    assert limits(patience, {"b"}, (0, 0.0)) == [90]
    assert limits(patience, {"a", "c"}, (0, 0.0)) == [1800]  # nobody of tier c was heard of
    for number in range(2, 7):
        after(patience, number, {"a": 40.0, "b": 5.0})
    assert limits(patience, {"a"}, (0, 0.0)) == [120]
    assert limits(patience, {"b"}, (0, 0.0)) == [LEAST]
    again = Patience(Settings())
    again.restore(*patience.checkpoint())
    assert limits(again, {"a"}, (0, 0.0)) == [120]


def test_who_was_silent_gets_more_time() -> None:
    """A node that is only slow is found: it has twice the time whenever it is asked again, up to eight times."""
    patience, found = Patience(Settings()), []
    after(patience, 1, {"a": 100.0})
    for number in range(1, 7):
        found += limits(patience, {"a"}, (0, 0.0))
        patience.note(number, range(10), arrived=range(9))
    assert found == [300, 600, 1200, 1800, 1800, 1800]
    patience.note(7, range(10), arrived=range(10))
    assert limits(patience, {"a"}, (0, 0.0)) == [300]


def test_the_whole_deadline_where_it_is_wanted_and_where_time_is_virtual() -> None:
    assert Patience(Settings(deadline_factor=0.0)).limit([1], {"a"}) is None
    assert Patience(Settings(fleet=VirtualFleet(devices=(), digest=""))).limit([1], {"a"}) is None
