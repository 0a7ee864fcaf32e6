"""How long a reply lay at the SuperLink: the bound in the metrics holds whatever the times of arrival."""

from __future__ import annotations

from typing import cast

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from hypothesis import given
from hypothesis import strategies as st

from flotilla.flwr_compat.identity import assume_identity
from strategies.exchange.messaging import WINDOW, Clock, exchange
from strategies.exchange.wait_times import WaitTimes
from tests.support import Player

PULL = 0.02  # seconds that a look takes


class Link:
    """Replies reach the SuperLink at given times; what lay there how long is what a server cannot see."""

    def __init__(self, arrivals: list[float]) -> None:
        self.arrivals, self.time, self.lay = arrivals, 0.0, dict[int, float]()
        self.requests: list[Message] = []

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def push_messages(self, messages: list[Message]) -> list[str]:
        for i, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(i)
        self.requests = list(messages)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, ids: list[str]) -> list[Message]:
        there = [int(i) for i in ids if self.arrivals[int(i)] <= self.time]
        self.time += PULL
        self.lay |= {i: self.time - self.arrivals[i] for i in there}
        replies = [Message(RecordDict({"c": ConfigRecord({"i": i})}), reply_to=self.requests[i]) for i in there]
        for i, reply in zip(there, replies, strict=True):
            reply.metadata.__dict__["_created_at"] = self.arrivals[i] - 1.0  # a second on its way
        return replies


def fetched(arrivals: list[float]) -> tuple[Link, WaitTimes]:
    assume_identity()
    link = Link(arrivals)
    messages = [Message(RecordDict(), dst_node_id=i + 1, message_type="train.part") for i in range(len(arrivals))]
    clock = Clock(lambda: link.time, link.sleep, lambda: link.time)
    return link, exchange(cast(Grid, link), messages, lambda i, reply: None, seconds=1e6, clock=clock)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=3 * WINDOW))
def test_no_reply_lay_longer_than_is_said(arrivals: list[float]) -> None:
    link, waited = fetched(arrivals)
    assert len(link.lay) == len(arrivals)
    assert max(link.lay.values()) <= waited.max_poll_gap + waited.max_fetch + 1e-9
    assert waited.max_transit >= max(link.lay.values()) + 1.0 - 1e-9


@given(st.lists(st.floats(0, 20), min_size=1, max_size=WINDOW))
def test_within_the_window_it_is_said_to_be_short(arrivals: list[float]) -> None:
    """A sleep and the look before it; then the look itself."""
    waited = fetched(arrivals)[1]
    assert waited.max_poll_gap <= 0.1 + PULL + 1e-9
    assert waited.max_fetch == pytest.approx(PULL)


def test_who_is_not_asked_lies() -> None:
    link, waited = fetched([10.0] + [0.0] * WINDOW)
    assert link.lay[WINDOW] >= 10.0
    assert waited.max_poll_gap >= 10.0 - PULL


def test_hello_is_in_the_metrics_where_somebody_was_greeted(play: Player) -> None:
    first, second = play.once(num_clients=4).rows
    assert first["waiting_seconds"]["hello"]["replies"] == 4
    assert "hello" not in second["waiting_seconds"]
    for waited in first["waiting_seconds"].values():
        assert waited["max_poll_gap"] >= 0
        assert 0 < waited["max_fetch"] <= waited["last"]
