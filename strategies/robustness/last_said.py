"""What nodes said last of some numbers, by group, and what is usual there: medians, one vote a node.

Every node has one vote, its newest, so that a node that is asked often counts no more than another, and a median bears
any lie of fewer than half of them. (A high quantile, which adaptive clipping and TensorFlow Federated's zeroing follow,
is the liars' own where they are more than what lies above it: one of ten decides the 0.98 quantile.)

A group of fewer than `LEAST` nodes cannot say who is usual in it; there everybody counts. So does what was said in the
present round where nothing is remembered yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from protocol import NodeId

LEAST = 3  # votes
_MOST = 32  # nodes of a group that are remembered, the newest

Numbers = tuple[float, ...]
Votes = dict[NodeId, Numbers]


class LastSaid:
    """Numbers by group and node.

    Attributes:
        votes: group → node → what it said last, the newest at the end.
    """

    def __init__(self) -> None:
        self.votes: dict[str, Votes] = {}

    def note(self, group: str, node: NodeId, numbers: Numbers) -> None:
        """Remember what a node says; what it said before is forgotten."""
        own = self.votes.setdefault(group, {})
        own.pop(node, None)
        own[node] = numbers
        if len(own) > _MOST:
            del own[next(iter(own))]

    def usual(self, group: str, now: LastSaid | None = None) -> Numbers | None:
        """The medians of a group, or of everybody where it is too small; None where that is too few as well.

        Args:
            group: whose.
            now: what was said in this round, which counts where nothing is known otherwise.
        """
        return self.usual_of(group, now)[0]

    def usual_of(self, group: str, now: LastSaid | None = None) -> tuple[Numbers | None, bool]:
        """As `usual`, and whether it is the group's own."""
        votes, own = self._votes_of(group, now)
        return (_medians(votes), own) if votes else (None, False)

    def _votes_of(self, group: str, now: LastSaid | None) -> tuple[Votes, bool]:
        """The votes that say what is usual, and whether they are the group's own; none where they are too few."""
        own = self.votes.get(group, {})
        if len(own) >= LEAST:
            return own, True
        everybody = _together(self.votes)
        if len(everybody) >= LEAST:
            return everybody, False
        return ({}, False) if now is None else self._with(now)._votes_of(group, None)

    def largest_of_others(self, group: str, node: NodeId, now: LastSaid) -> Numbers | None:
        """The largest that other nodes said, of those by whom `usual` goes; None where these are too few."""
        votes, _ = self._votes_of(group, now)
        others = [numbers for other, numbers in votes.items() if other != node]
        return tuple(max(column) for column in zip(*others, strict=True)) if others else None

    def _with(self, now: LastSaid) -> LastSaid:
        found = LastSaid()
        for one in (self, now):
            for group, votes in one.votes.items():
                for node, numbers in votes.items():
                    found.note(group, node, numbers)
        return found

    def checkpoint(self) -> Any:
        """As JSON."""
        return {group: [[node, *numbers] for node, numbers in votes.items()] for group, votes in self.votes.items()}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take up a `checkpoint`."""
        self.votes = {group: {node: tuple(numbers) for node, *numbers in votes} for group, votes in values.items()}


def _together(groups: Mapping[str, Votes]) -> Votes:
    """One vote a node, of whatever group."""
    return {node: numbers for votes in groups.values() for node, numbers in votes.items()}


def _medians(votes: Votes) -> Numbers:
    return tuple(median(column) for column in zip(*votes.values(), strict=True))
