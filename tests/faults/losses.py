"""What a kill may cost.

| killed | replies that may be missing |
|---|---|
| ClientApp | one: its node's, of the round under way |
| SuperNode | its own, from the round under way until it replies again; it must be back within `BACK` seconds |
| SuperLink | those in flight: one of each node at most, of the round under way |
| ServerApp | none: the resumed run repeats the round under way |

A reply is missing if its node was asked and it was not accepted, or if the node was not there to be asked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Flower refuses a node's key for up to 60 s after its death; then the supervisor's next try, and imports on busy cores.
BACK = 100.0
_WRITING = 1.0  # seconds between the end of a round and the moment at which we have seen its line
# What the metrics call rejected, but is no reply that is missing.
_NOT_LOST = ("duplicate", "unknown", "two nodes say", "hello of node")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill.

    Attributes:
        part: what was killed.
        node: whose, for a ClientApp and a SuperNode.
        at: seconds of a monotonic clock.
        number: the round under way.
        incarnation: how often the run had been resumed.
    """

    part: str
    node: int | None
    at: float
    number: int
    incarnation: int

    def __str__(self) -> str:
        whose = "" if self.node is None else f" of node {self.node}"
        return f"killed the {self.part}{whose} in round {self.number}"


def lost_in(row: Mapping[str, Any]) -> set[int]:
    """Nodes that were asked to train in a round and whose reply was not accepted.

    Raises:
        AssertionError: the line contradicts itself.
    """
    reasons = [(one["node"], one["reason"]) for one in row["rejected"]]
    lost = {node for node, reason in reasons if not reason.startswith(_NOT_LOST)}
    assert row["accepted"] == len(row["selected"]) - len(lost), f"accepted {row['accepted']}, rejected {reasons}"
    assert lost <= set(row["selected"]), f"lost {lost} of {row['selected']}"
    return lost


@dataclass(kw_only=True)
class Diary:
    """What was done to a run, and when its rounds were over.

    Attributes:
        kills: in order.
        ended: round → seconds of a monotonic clock at which it was seen to be over, and the incarnation.
        incarnation: how often the run has been resumed.
    """

    kills: list[Kill] = field(default_factory=list)
    ended: dict[int, tuple[float, int]] = field(default_factory=dict)
    incarnation: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def interrupted(self) -> bool:
        """Whether this incarnation's ServerApp has been killed."""
        return any(kill.part == "ServerApp" and kill.incarnation == self.incarnation for kill in self.kills)

    def see(self, rounds: int) -> None:
        """Note that so many rounds are over."""
        for number in range(1, rounds + 1):
            self.ended.setdefault(number, (time.monotonic(), self.incarnation))

    def resumed(self) -> None:
        """Note that the run has been taken up again."""
        self.incarnation += 1

    def under_way(self, kill: Kill) -> set[int]:
        """Rounds whose requests may have been in flight at a kill."""
        found, number = {kill.number}, kill.number
        if number in self.ended and self.ended[number][0] - kill.at < _WRITING:
            found.add(number + 1)
        if number - 1 in self.ended and self.ended[number - 1][0] >= kill.at:
            found.add(number - 1)
        return found

    def check(self, rows: Sequence[Mapping[str, Any]], nodes: int) -> Counter[str]:
        """Hold a run's metrics against what was done to it.

        Args:
            rows: one of each round.
            nodes: how many there are, by ids from 0.

        Returns:
            Part → replies that its kills have cost.

        Raises:
            AssertionError: something was lost that no kill accounts for.
        """
        assert [row["round"] for row in rows] == list(range(1, len(rows) + 1))
        missing = {row["round"]: lost_in(row) | set(range(nodes)) - set(row["selected"]) for row in rows}
        absent = self._absences(missing, {row["round"]: set(row.get("resting", ())) for row in rows})
        one_each = [kill for kill in self.kills if kill.part == "ClientApp"]
        in_flight = {kill: nodes for kill in self.kills if kill.part == "SuperLink"}
        costs: Counter[str] = Counter()
        for number, who in sorted(missing.items()):
            for node in sorted(who):
                if (number, node) in absent:
                    costs["SuperNode"] += 1
                    continue
                kill = next((k for k in one_each if k.node == node and self._fits(k, number)), None)
                if kill is not None:
                    one_each.remove(kill)
                    costs["ClientApp"] += 1
                    continue
                kill = next((k for k, left in in_flight.items() if left and self._fits(k, number)), None)
                why = [one["reason"] for one in rows[number - 1]["rejected"]]
                assert kill is not None, (
                    f"nobody's death accounts for the reply of node {node} in round {number}: {why}; "
                    f"{'; '.join(map(str, self.kills))}"
                )
                in_flight[kill] -= 1
                costs["SuperLink"] += 1
        return costs

    def _fits(self, kill: Kill, number: int) -> bool:
        return self.ended[number][1] == kill.incarnation and number in self.under_way(kill)

    def _absences(self, missing: Mapping[int, set[int]], resting: Mapping[int, set[int]]) -> set[tuple[int, int]]:
        """Round and node of the replies that are missing because the node's SuperNode was dead."""
        found = set()
        for kill in self.kills:
            if kill.part != "SuperNode":
                continue
            assert kill.node is not None
            for number in sorted(missing):
                if self.ended[number][1] != kill.incarnation or number < min(self.under_way(kill)):
                    continue
                here = kill.node not in missing[number]
                if here and (number not in self.under_way(kill)):
                    break
                began = self.ended[number - 1][0] if number - 1 in self.ended else kill.at
                excused = here or kill.node in resting[number]  # it was silent, and is asked less often for that
                assert excused or began - kill.at <= BACK, (
                    f"{kill}: not back in round {number}, {began - kill.at:.0f} s later"
                )
                if not here:
                    found.add((number, kill.node))
        return found
