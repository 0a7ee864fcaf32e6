"""Who takes part, as columns: made once and kept until somebody comes, goes or changes tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol import NodeId
from strategies.fleet import Node
from strategies.table import NodeTable
from strategies.tiers import Tier


@dataclass(frozen=True, eq=False)
class Roster:
    """The nodes that may take part, and what does not change while they are the same.

    Attributes:
        nodes: in order of their ids.
        tiers: by node.
        ids: of the nodes.
        position: of every id among them.
        rows: of the nodes in the table.
        places: position of each one's tier among all tiers.
        examples: of each one.
    """

    nodes: Sequence[Node]
    tiers: Mapping[NodeId, Tier]
    ids: list[NodeId]
    position: dict[NodeId, int]
    rows: NDArray[np.intp]
    places: NDArray[np.intp]
    examples: NDArray[np.float64]

    @staticmethod
    def of(nodes: Sequence[Node], tiers: Mapping[NodeId, Tier], place: Mapping[str, int], table: NodeTable) -> Roster:
        """Make the columns.

        Args:
            nodes: in order of their ids.
            tiers: by node.
            place: position of a tier by name.
            table: whose rows are wanted; nodes that it does not know get one.
        """
        count, hellos = len(nodes), [node.hello for node in nodes]
        ids = [hello.node for hello in hellos]
        return Roster(
            nodes, tiers, ids, dict(zip(ids, range(count), strict=True)), table.rows(ids),
            np.fromiter((place[tiers[node].name] for node in ids), dtype=np.intp, count=count),
            np.fromiter((hello.examples for hello in hellos), dtype=float, count=count),
        )  # fmt: skip

    def is_of(self, nodes: Sequence[Node], tiers: Mapping[NodeId, Tier]) -> bool:
        """Whether it was made of these very objects."""
        return self.nodes is nodes and self.tiers is tiers
