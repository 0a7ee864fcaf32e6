"""Replies that wait: what comes back is what went in, and of those that lie in a file one at a time is in memory."""

from __future__ import annotations

import weakref

import pytest
import torch

from strategies.exchange.update import ClientUpdate
from strategies.round import held_replies
from strategies.round.held_replies import HeldReplies


def update(number: int) -> ClientUpdate:
    return ClientUpdate(metrics={"num-examples": float(number)}, difference=torch.full((100,), float(number)))


@pytest.mark.parametrize("in_memory", [0, 1000, 1 << 20])  # bytes: no reply, two, all
def test_they_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(held_replies, "_IN_MEMORY", in_memory)
    held = HeldReplies()
    for number in (3, 1, 2, 5):
        held.hold(number, update(number))
    assert len(held) == 4
    back = list(held.release())
    assert [i for i, _ in back] == [3, 1, 2, 5]
    for i, one in back:
        assert one.metrics["num-examples"] == i
        assert (one.difference == i).all()
    assert len(held) == 0


def test_one_difference_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_replies, "_IN_MEMORY", 0)
    held = HeldReplies()
    for number in range(5):
        held.hold(number, update(number))
    alive: list[weakref.ref[torch.Tensor]] = []
    for _, one in held.release():
        assert [known for known in alive if known() is not None] == []
        alive.append(weakref.ref(one.difference))
        del one  # as whoever takes them does
    assert len(alive) == 5
