"""The bounds that `make trials` holds a run to: a bug that loses replies must not pass for a kill's cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.faults.losses import BACK, Diary, Kill, lost_in

NODES = 5


def row(number: int, lost: tuple[int, ...] = (), absent: tuple[int, ...] = (), noise: tuple[str, ...] = ()) -> Any:
    """A line of metrics."""
    selected = [node for node in range(NODES) if node not in absent]
    rejected = [{"node": node, "reason": "no reply in time"} for node in lost]
    rejected += [{"node": 0, "reason": reason} for reason in noise]
    return {"round": number, "selected": selected, "accepted": len(selected) - len(lost), "rejected": rejected}


def diary(*kills: tuple[str, int | None, float], seconds: float = 10.0, rounds: int = 6) -> Diary:
    """Rounds of so many seconds from 0 on, and kills (part, node, at) in them."""
    ended = {number: (seconds * number, 0) for number in range(1, rounds + 1)}
    return Diary(
        kills=[
            Kill(part=part, node=node, at=at, number=int(at // seconds) + 1, incarnation=0) for part, node, at in kills
        ],
        ended=ended,
    )


def test_nothing_lost_costs_nothing() -> None:
    assert not diary(("ServerApp", None, 5.0)).check([row(number) for number in range(1, 4)], NODES)


def test_each_kill_may_cost_its_own() -> None:
    kills = (("ClientApp", 2, 15.0), ("SuperLink", None, 45.0), ("SuperNode", 1, 25.0))
    rows = [row(1), row(2, lost=(2,)), row(3, lost=(1,)), row(4, absent=(1,)), row(5, lost=(0, 1, 2, 3, 4)), row(6)]
    assert diary(*kills).check(rows, NODES) == Counter(SuperNode=3, ClientApp=1, SuperLink=4)


@pytest.mark.parametrize(
    ("kill", "rows"),
    [
        pytest.param(("ClientApp", 2, 15.0), [row(1), row(2, lost=(2,)), row(3, lost=(2,))], id="a second round"),
        pytest.param(("ClientApp", 2, 15.0), [row(1), row(2, lost=(2, 3))], id="another's reply"),
        pytest.param(("ClientApp", 2, 15.0), [row(1), row(2, lost=(3,))], id="only another's reply"),
        pytest.param(("ClientApp", 2, 15.0), [row(1, lost=(2,)), row(2)], id="before its death"),
        pytest.param(("SuperNode", 2, 15.0), [row(1), row(2, lost=(3,))], id="a neighbour's reply"),
        pytest.param(("SuperNode", 2, 15.0), [row(1), row(2, (2,)), row(3), row(4, (2,))], id="after its return"),
        pytest.param(("SuperLink", None, 15.0), [row(1), row(2), row(3, lost=(0,))], id="not in flight"),
        pytest.param(("ServerApp", None, 15.0), [row(1), row(2, lost=(0,))], id="what a resumed run repeats"),
        pytest.param(("ServerApp", None, 15.0), [row(1), row(3)], id="a round"),
    ],
)
def test_more_is_not_accepted(kill: tuple[str, int | None, float], rows: list[Any]) -> None:
    with pytest.raises(AssertionError):
        diary(kill).check(rows, NODES)


def test_a_supernode_has_to_come_back() -> None:
    long = BACK + 10.0
    written = diary(("SuperNode", 1, 1.0), seconds=long, rounds=3)
    assert written.check([row(1, lost=(1,)), row(2), row(3)], NODES) == Counter(SuperNode=1)
    with pytest.raises(AssertionError, match="not back"):
        written.check([row(1, lost=(1,)), row(2, lost=(1,)), row(3)], NODES)


def test_replies_beside_the_awaited_ones_are_not_lost() -> None:
    noise = ("duplicate", "unknown", "two nodes say they are 1; one is left out")
    assert lost_in(row(1, noise=noise)) == set()
    with pytest.raises(AssertionError):
        lost_in(row(1, lost=(1,)) | {"accepted": NODES})
