"""Replies that come twice, to nothing, in another's place, or in too small a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from strategies.flower_adapter import NothingLearnt
from tests.faults.changes import FOUR, VICTIM, assert_as_without
from tests.support import Player, failed, trains, without


def test_a_reply_twice_counts_once(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [reply, reply] if trains(request, VICTIM, [1]) else [reply]

    out = play(faults, **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert out.rejected == [{"node": VICTIM, "reason": "duplicate"}]


def test_a_reply_twice_and_later_counts_once(play: Player) -> None:
    first: list[Message] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        again = first[:] if trains(request, rounds=[1]) else []
        first.extend([reply] if trains(request, rounds=[1]) else [])
        return [reply, *again]

    out = play(faults, **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert len(out.rejected) == 6
    assert {r["reason"] for r in out.rejected} == {"duplicate"}


def test_a_reply_to_nothing(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if not trains(request, VICTIM, [1]):
            return [reply]
        stranger = Message(reply.content, reply_to=request)
        stranger.metadata.__dict__["_reply_to_message_id"] = "nobody asked"
        return [stranger, reply]

    out = play(faults, **FOUR)
    assert out.hash == play.once(**FOUR).hash
    assert out.rejected == [{"node": None, "reason": "unknown"}]


def test_another_nodes_reply_does_not_take_its_place(play: Player) -> None:
    """Node 2 answers with what node 0 said, of the same size: the nonce alone gives it away."""
    said: list[RecordDict] = []

    def listen(request: Message, reply: Message) -> list[Message]:
        said.extend([reply.content] if trains(request, 0, [1]) else [])
        return [reply]

    def faults(request: Message, reply: Message) -> list[Message]:
        return [Message(said[0], reply_to=request) if trains(request, VICTIM, [1]) else reply]

    keys: dict[str, Any] = {**FOUR, "tiers": "a:1"}
    play(listen, **keys)
    assert_as_without(play(faults, **keys), play(without(VICTIM, [1]), **keys), "answers")


def test_the_reply_of_the_round_before_does_not_take_its_place(play: Player) -> None:
    """Node 2 answers the request of round 2 with what it said in round 1, nonce and all."""
    said: list[RecordDict] = []

    def faults(request: Message, reply: Message) -> list[Message]:
        if trains(request, VICTIM, [1]):
            said.append(reply.content)
        return [Message(said[0], reply_to=request) if trains(request, VICTIM, [2]) else reply]

    keys: dict[str, Any] = {**FOUR, "num_server_rounds": 3}
    out = play(faults, **keys)
    assert out.hash == play(without(VICTIM, [2]), **keys).hash != play(**keys).hash
    assert [row["accepted"] for row in out.rows] == [4, 3, 4]
    assert out.summary["status"] == "finished"
    (rejection,) = out.rows[1]["rejected"]
    assert out.rejected == [rejection]
    assert rejection["node"] == VICTIM
    assert "which is not what the node was asked" in rejection["reason"]


def failing(lost: set[int]) -> Callable[[Message, Message], list[Message]]:
    return lambda request, reply: [failed(request) if any(trains(request, n, [1]) for n in lost) else reply]


@pytest.mark.parametrize(("quorum", "lost", "abandoned"), [(0.75, {1}, False), (0.75, {1, 2}, True), (0.76, {1}, True)])
def test_quorum(play: Player, quorum: float, lost: set[int], abandoned: bool) -> None:
    row = play(failing(lost), quorum=quorum, **FOUR).rows[0]
    assert row["abandoned"] is abandoned
    assert row["accepted"] == 4 - len(lost)


def test_without_quorum_one_reply_is_needed(play: Player) -> None:
    assert play(failing({1, 2, 3}), quorum=0.0, **FOUR).rows[0]["abandoned"] is False
    assert play(failing({0, 1, 2, 3}), quorum=0.0, **FOUR).rows[0]["abandoned"] is True
    with pytest.raises(NothingLearnt):
        play(failing({0, 1, 2, 3}), quorum=0.0, num_server_rounds=1, **FOUR)
