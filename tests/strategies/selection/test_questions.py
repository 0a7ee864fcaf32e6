"""What selectors ask before they choose: whom, for how many bytes, and what an answer may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from protocol import GRADIENTS, LOSSES, TRAIN, encode
from tests.strategies.selection.timed import on_time
from tests.support import address_of, failed, play


class Eyes:
    """Counts messages by type and round, and lets a test answer some of them otherwise."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, int]] = []

    def __call__(self, request: Message, reply: Message) -> list[Message]:
        meta = request.metadata
        self.seen.append((int(meta.group_id or 0), meta.message_type, meta.dst_node_id))
        return on_time(request, reply)

    def count(self, kind: str, round_number: int) -> int:
        return sum(seen[:2] == (round_number, kind) for seen in self.seen)


@pytest.mark.parametrize("name", ["pow-d", "cpow-d"])
def test_p8_power_of_choice_costs_d_parts_down_and_d_numbers_up(tmp_path: Path, name: str) -> None:
    eyes = Eyes()
    out = play(tmp_path, eyes, selection=name, selection_candidates=5, fraction_train=0.3, norm="none", method="fedavg")
    for row in out.rows:
        assert eyes.count(LOSSES, row["round"]) == 5
        assert eyes.count(TRAIN, row["round"]) == len(row["selected"]) == 2
        assert row["bytes_survey_down"] * 2 == row["bytes_down"] * 5
        assert row["bytes_survey_up"] == 0


@pytest.mark.parametrize("name", ["rpow-d", "oort", "divfl", "by-size"])
def test_what_came_with_training_is_not_asked_for(tmp_path: Path, name: str) -> None:
    eyes = Eyes()
    play(tmp_path, eyes, selection=name, fraction_train=0.5, norm="none")
    assert not [seen for seen in eyes.seen if seen[1] in (LOSSES, GRADIENTS)]


def test_divfl_asks_everybody_once_or_every_round(tmp_path: Path) -> None:
    asked = {}
    for refresh in ("participants", "everyone"):
        eyes = Eyes()
        keys = {"selection": "divfl", "divfl_refresh": refresh, "fraction_train": 0.5, "num_server_rounds": 3}
        play(tmp_path / refresh, eyes, norm="none", **keys)
        asked[refresh] = [eyes.count(GRADIENTS, number) for number in (1, 2, 3)]
    assert asked == {"participants": [6, 3, 3], "everyone": [6, 6, 6]}


def test_p7_a_batch_of_everything_is_power_of_choice(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"fraction_train": 0.4, "selection_batch": 10_000, "num_server_rounds": 3}
    full, batch = (play(tmp_path / name, selection=name, **keys) for name in ("pow-d", "cpow-d"))
    assert full.hash == batch.hash
    small = play(tmp_path / "small", selection="cpow-d", **keys | {"selection_batch": 3})
    assert small.hash != full.hash


def test_a_candidate_that_cannot_answer_is_named_and_not_chosen(tmp_path: Path) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        asked = request.metadata.message_type == LOSSES and request.metadata.dst_node_id == address_of(2)
        return [failed(request)] if asked else [reply]

    out = play(tmp_path, faults, selection="pow-d", selection_candidates=6, fraction_train=0.5)
    assert [(rejection["node"], rejection["reason"][:6]) for rejection in out.rejected] == [(2, "probe:")] * 2
    assert all(2 not in row["selected"] for row in out.rows)
    assert [row["accepted"] for row in out.rows] == [3, 3]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (LOSSES, lambda content: content["metrics"].pop("loss")),
        (LOSSES, lambda content: content["metrics"].update(loss=-1.0)),
        (LOSSES, lambda content: content["metrics"].update(loss=float("nan"))),
        (LOSSES, lambda content: content["config"].update(nonce="of another")),
        (GRADIENTS, lambda content: content.pop("arrays")),
        (GRADIENTS, lambda content: content["arrays"].update(gradient=encode(torch.zeros(3)))),
        (GRADIENTS, lambda content: content["arrays"].update(gradient=encode(torch.full((1314,), torch.nan)))),
    ],
)
def test_an_answer_that_cannot_be(tmp_path: Path, kind: str, change: Any) -> None:
    def faults(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == kind and request.metadata.dst_node_id == address_of(1):
            change(reply.content)
        return [reply]

    keys: dict[str, Any] = (
        {"selection": "pow-d"} if kind == LOSSES else {"selection": "divfl", "divfl_refresh": "everyone"}
    )
    out = play(tmp_path, faults, **keys, selection_candidates=6, fraction_train=0.5, norm="none", method="fedavg")
    assert [rejection["node"] for rejection in out.rejected] == [1, 1]
    assert all(rejection["reason"].startswith("probe: ") for rejection in out.rejected)
    assert out.summary["status"] == "finished"
