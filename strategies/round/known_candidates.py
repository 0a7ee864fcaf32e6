"""What is known of the candidates of a round: a column is made when a selector looks at it, of whoever is known."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.nodes.candidate_index import CandidateIndex
from strategies.nodes.history import COLUMNS, NodeHistory
from strategies.selection import Candidates
from strategies.selection.base import Floats
from strategies.selection.comparable import MOST, believed


class KnownCandidates(Candidates):
    """Candidates whose columns come out of an index and a history, as these were when this was made.

    Args:
        index: who they are.
        history: what was learnt of some of them.
        planned: local steps of each tier; 0 where it plans epochs.
        guard: whether losses are held against each other.
        round_number, batch_size, notes: see `Candidates`.
    """

    def __init__(
        self,
        index: CandidateIndex,
        history: NodeHistory,
        *,
        planned: Floats,
        guard: bool,
        round_number: int,
        batch_size: int,
        notes: dict[str, Any],
    ) -> None:
        at, rows = index.known(history)
        vars(self).update(
            nodes=index.ids,
            examples=index.examples,
            tiers=index.tier_positions,
            round_number=round_number,
            batch_size=batch_size,
            notes=notes,
            _at=at,
            _known=history.of(rows),
            _known_vectors=history.vectors[rows],
            _planned=planned,
            _guard=guard,
        )

    def _column(self, name: str) -> Floats:
        column = np.full(len(self.nodes), COLUMNS[name])
        column[vars(self)["_at"]] = vars(self)["_known"][name]
        return column

    @cached_property
    def loss(self) -> Floats:
        """See `Candidates`."""
        column = self._column("loss")
        return believed(column) if vars(self)["_guard"] else column

    @cached_property
    def loss_square(self) -> Floats:
        """See `Candidates`."""
        column = self._column("loss_square")
        return believed(column, MOST**2) if vars(self)["_guard"] else column

    @cached_property
    def loss_tiers(self) -> NDArray[np.intp]:
        """See `Candidates`."""
        return self._column("tier").astype(np.intp)

    @cached_property
    def last_round(self) -> Floats:
        """See `Candidates`."""
        return self._column("round")

    @cached_property
    def seconds(self) -> Floats:
        """See `Candidates`."""
        return self._column("seconds")

    @cached_property
    def selected(self) -> Floats:
        """See `Candidates`."""
        return self._column("selected")

    @cached_property
    def steps(self) -> Floats:
        """Where steps are planned, a node will do those of its present tier; else its examples again, as last time."""
        planned = vars(self)["_planned"][self.tiers]
        return np.where(planned > 0, planned, self._column("steps"))

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """See `Candidates`."""
        known = vars(self)["_known_vectors"]
        vectors = np.full((len(self.nodes), known.shape[1]), np.nan, dtype=np.float32)
        vectors[vars(self)["_at"]] = known
        return vectors
