"""Who takes part, as columns: made once and kept until somebody comes, goes or changes tier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocol import NodeId
from strategies.exchange.fleet import Fleet, TierTable
from strategies.exchange.node import Node
from strategies.nodes.history import NodeHistory
from strategies.tiers.tier import Tier

Positions = NDArray[np.intp]


@dataclass(eq=False, kw_only=True)
class CandidateIndex:
    """The nodes that may take part, and what does not change while they are the same.

    Attributes:
        nodes: in order of their ids.
        tiers: by node.
        ids: of the nodes.
        find: position of an id among them; None if it is not there.
        tier_positions: position of each one's tier among all tiers.
        examples: of each one.
    """

    nodes: Sequence[Node]
    tiers: Mapping[NodeId, Tier]
    ids: Sequence[NodeId]
    find: Callable[[NodeId], int | None]
    tier_positions: Positions
    examples: NDArray[np.float64]
    _at: Positions = field(default_factory=lambda: np.empty(0, dtype=np.intp))  # of the history's rows; -1: not here

    @staticmethod
    def of(nodes: Sequence[Node], tiers: Mapping[NodeId, Tier], positions: Mapping[str, int]) -> CandidateIndex:
        """Make the columns.

        Args:
            nodes: in order of their ids.
            tiers: by node.
            positions: of tiers by name.
        """
        if isinstance(nodes, Fleet) and isinstance(tiers, TierTable) and len(nodes) == len(tiers):
            return CandidateIndex(
                nodes=nodes,
                tiers=tiers,
                ids=nodes.ids,
                find=nodes.find,
                tier_positions=tiers.positions,
                examples=nodes.examples.astype(float),
            )
        count, hellos = len(nodes), [node.hello for node in nodes]
        ids = [hello.node for hello in hellos]
        return CandidateIndex(
            nodes=nodes,
            tiers=tiers,
            ids=ids,
            find=dict(zip(ids, range(count), strict=True)).get,
            tier_positions=np.fromiter((positions[tiers[node].name] for node in ids), dtype=np.intp, count=count),
            examples=np.fromiter((hello.examples for hello in hellos), dtype=float, count=count),
        )

    def position(self, node: NodeId) -> int:
        """Position of an id.

        Raises:
            KeyError: it is not there.
        """
        at = self.find(node)
        if at is None:
            raise KeyError(node)
        return at

    def known(self, history: NodeHistory) -> tuple[Positions, NDArray[np.intp]]:
        """The candidates of whom something is known: positions here, rows there."""
        new = history.nodes[len(self._at) :]
        if new:
            found = (self.find(node) for node in new)
            at = np.fromiter((-1 if at is None else at for at in found), dtype=np.intp, count=len(new))
            self._at = np.concatenate([self._at, at])
        rows = np.flatnonzero(self._at >= 0)
        return self._at[rows], rows
