"""Bad statistics and local scores: they do not count, and do no harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from tests.faults.changes import FOUR, Change, metrics, without_record
from tests.support import Player, address_of, failed


def moments(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Change:
    def changed(content: RecordDict) -> None:
        array = content.array_records["arrays"]["moments"].numpy().copy()
        content["arrays"] = ArrayRecord({"moments": Array(change(array))})

    return changed


BAD_MOMENTS: dict[str, Change] = {
    "wrong length": moments(lambda m: m[:-1]),
    "nothing in it": moments(lambda m: m[:0]),
    "one number": moments(lambda m: m[:1]),
    "NaN": moments(lambda m: m * np.nan),
    "no examples seen": moments(lambda m: m * 0),
    "a negative count": moments(lambda m: -m),
    "float32": moments(lambda m: m.astype(np.float32)),
    "no arrays": without_record("arrays"),
}


@pytest.mark.parametrize("name", BAD_MOMENTS)
def test_the_run_survives_bad_statistics(play: Player, name: str) -> None:
    """From everybody: then there is no score, or the one that is left, but there is a model."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == "query.statistics":
            BAD_MOMENTS[name](reply.content)
        return [reply]

    out = play(faults, **FOUR)
    assert out.summary["status"] == "finished"
    assert out.hash == play.once(**FOUR).hash
    assert out.rows[-1]["accuracy"] is None
    assert out.rows[-1]["tiers"] == {}


@pytest.mark.parametrize("name", BAD_MOMENTS)
def test_bad_statistics_are_left_out(play: Player, name: str) -> None:
    """Of one node in one tier, among others, and first of all."""

    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == "query.statistics" and request.metadata.dst_node_id == address_of(victim):
            BAD_MOMENTS[name](reply.content)
        return [reply]

    def lost(request: Message, reply: Message) -> list[Message]:
        asked = request.metadata.message_type == "query.statistics"
        return [failed(request) if asked and request.metadata.dst_node_id == address_of(victim) else reply]

    victim = 0
    keys: dict[str, Any] = {"tiers": "a:1", "num_clients": 3, "num_server_rounds": 1}
    out, reference = play(faults, **keys), play(lost, **keys)
    assert out.rows[-1]["loss"] == reference.rows[-1]["loss"] != play(**keys).rows[-1]["loss"]
    assert [rejection["reason"].split(":")[0] for rejection in out.rejected] == ["statistics"]


def test_without_any_statistics_the_run_ends_without_scores(play: Player) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        return [failed(request) if request.metadata.message_type == "query.statistics" else reply]

    out = play(faults, **FOUR)
    assert out.summary["status"] == "finished"
    assert out.summary["best"] is None
    assert out.hash == play.once(**FOUR).hash


@pytest.mark.parametrize("change", [metrics(num_examples=-5.0), metrics(loss=float("nan")), metrics(accuracy=None)])
def test_bad_local_scores_are_left_out(play: Player, change: Change) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == "evaluate.part" and request.metadata.dst_node_id == address_of(1):
            change(reply.content)
        return [reply]

    def lost(request: Message, reply: Message) -> list[Message]:
        asked = request.metadata.message_type == "evaluate.part"
        return [failed(request) if asked and request.metadata.dst_node_id == address_of(1) else reply]

    keys: dict[str, Any] = {"fraction_evaluate": 1.0, "num_clients": 3, "num_server_rounds": 1}
    assert play(faults, **keys).rows[0]["local"] == play(lost, **keys).rows[0]["local"]
