"""Statistics of static batch norm: a node is asked once, whatever tiers it stands in for, with the same results."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from flwr.app import Message

from models.algebra.plans import Plan
from models.networks.spec import NetworkSpec
from protocol import STATISTICS, StatisticsRequest
from protocol.statistics_request import MOST_PARTS
from tests.support import Outcome, Player

# Everybody is in the widest tier, or nobody is in the widest but one.
CASES: list[dict[str, Any]] = [
    {"tier_proportions": "1, 0, 0"},
    {"tier_proportions": "2, 0, 1", "method": "fedrolex"},
    {"tiers": "a:1, b:1/2, c:1/3, d:1/4, e:1/5, f:1/6", "tier_proportions": "1, 0, 0, 0, 0, 0"},
    {"clustering": "cfl", "tier_proportions": "1, 0, 0"},
    {"guard": False, "tier_proportions": "1, 1, 0"},
]


def played(play: Player, keys: dict[str, Any], together: int) -> tuple[Outcome, list[tuple[str, int]]]:
    """A run, and who was asked for statistics in which round."""
    asked: list[tuple[str, int]] = []

    def note(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == STATISTICS:
            asked.append((request.metadata.group_id, request.metadata.dst_node_id))
        return [reply]

    with patch("strategies.round.batchnorm_statistics.MOST_PARTS", together):
        return play(note, **{"num_clients": 5, "num_server_rounds": 2, "evaluate_every": 1, **keys}), asked


@pytest.mark.parametrize("keys", CASES, ids=str)
def test_a_node_is_asked_once_for_all_tiers(play: Player, keys: dict[str, Any]) -> None:
    out, asked = played(play, keys, MOST_PARTS)
    alone, one_by_one = played(play, keys, 1)
    assert out.hash == alone.hash
    assert [row["tiers"] for row in out.rows] == [row["tiers"] for row in alone.rows]
    assert len(asked) < len(one_by_one)
    tiers = len(str(keys.get("tiers", "a, b, c")).split(","))
    assert all(len(row["tiers"]) == tiers for row in out.rows)
    assert len(asked) <= len(set(asked)) * -(-tiers // MOST_PARTS)


def test_parts_that_are_sent_are_asked_for_one_by_one(play: Player) -> None:
    out, asked = played(play, {"tier_proportions": "1, 0, 0", "slice_at": "server"}, MOST_PARTS)
    assert out.hash == played(play, {"tier_proportions": "1, 0, 0"}, MOST_PARTS)[0].hash
    assert len(asked) == 3 * len(set(asked))


def test_statistics_of_some_nodes(play: Player) -> None:
    _, asked = played(play, {"statistics_nodes": 2}, MOST_PARTS)
    assert len(asked) == len(set(asked)) == 4  # two in each round
    out, everybody = played(play, {"statistics_nodes": 5}, MOST_PARTS)
    assert len(everybody) == 10
    assert out.hash == played(play, {}, MOST_PARTS)[0].hash


def test_no_device_is_asked_for_more_parts_than_a_reply_holds() -> None:
    spec, plan = NetworkSpec("mlp", (1, 8, 8), 10), Plan()
    with pytest.raises(ValueError, match="also: 4 parts: allowed are 3"):
        StatisticsRequest(round_number=1, nonce="n", seed=1, network=spec, plan=plan, also=(plan,) * 4)
