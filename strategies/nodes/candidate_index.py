"""Who takes part, as columns: made once and kept until somebody comes, goes or changes tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol import NodeId
from strategies.exchange.node import Node
from strategies.nodes.history import NodeHistory
from strategies.tiers.tier import Tier


@dataclass(frozen=True, eq=False, kw_only=True)
class CandidateIndex:
    """The nodes that may take part, and what does not change while they are the same.

    Attributes:
        nodes: in order of their ids.
        tiers: by node.
        ids: of the nodes.
        position: of every id among them.
        rows: of the nodes in the history.
        tier_positions: position of each one's tier among all tiers.
        examples: of each one.
    """

    nodes: Sequence[Node]
    tiers: Mapping[NodeId, Tier]
    ids: list[NodeId]
    position: dict[NodeId, int]
    rows: NDArray[np.intp]
    tier_positions: NDArray[np.intp]
    examples: NDArray[np.float64]

    @staticmethod
    def of(
        nodes: Sequence[Node], tiers: Mapping[NodeId, Tier], positions: Mapping[str, int], history: NodeHistory
    ) -> CandidateIndex:
        """Make the columns.

        Args:
            nodes: in order of their ids.
            tiers: by node.
            positions: of tiers by name.
            history: whose rows are wanted; nodes that it does not know get one.
        """
        count, hellos = len(nodes), [node.hello for node in nodes]
        ids = [hello.node for hello in hellos]
        return CandidateIndex(
            nodes=nodes,
            tiers=tiers,
            ids=ids,
            position=dict(zip(ids, range(count), strict=True)),
            rows=history.rows(ids),
            tier_positions=np.fromiter((positions[tiers[node].name] for node in ids), dtype=np.intp, count=count),
            examples=np.fromiter((hello.examples for hello in hellos), dtype=float, count=count),
        )
