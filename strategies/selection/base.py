"""The selector interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protocol import NodeId


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of a node that could take part.

    Attributes:
        node: stable id.
        tier: its tier this round.
        examples: number of training examples.
        last_loss: mean training loss it last reported; None if it never has.
        last_round: the round of that report; 0 if there is none.
        last_seconds: wall seconds of its last local training; None if unknown.
    """

    node: NodeId
    tier: str
    examples: int
    last_loss: float | None = None
    last_round: int = 0
    last_seconds: float | None = None


# Asks some candidates for numbers before deciding: node ids → {node: {name: number}}. Costs a round trip.
Probe = Callable[[Sequence[NodeId]], Mapping[NodeId, Mapping[str, float]]]


class Selector(ABC):
    """Chooses the nodes of a round. A selector keeps no state of its own: what it needs is in the candidates."""

    @abstractmethod
    def select(
        self, candidates: Sequence[Candidate], count: int, draws: np.random.Generator, probe: Probe
    ) -> list[NodeId]:
        """Choose nodes.

        Args:
            candidates: in order of their ids, so that draws do not depend on who said hello first.
            count: how many to choose, at most the number of candidates.
            draws: generator of this round's selection.
            probe: asks candidates for numbers.

        Returns:
            Distinct ids in the order in which the round will fold them.
        """
