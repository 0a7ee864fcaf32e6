"""The selector interface: what is known of the candidates goes in as columns, chosen ids and weights come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocol import NodeId

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """What is known of the nodes that could take part: one entry a node, in order of their ids; NaN is unknown.

    Columns rather than objects: 100,000 nodes are looked at every round.

    Attributes:
        nodes: stable ids.
        examples: number of training examples, at least 1.
        tiers: position of the node's tier this round, 0 is the widest.
        loss: mean training loss that it last reported (nats).
        loss_square: mean of the squared loss per example that came along, if it was asked for.
        loss_tiers: position of the tier that it trained in then.
        last_round: the round of that report; 0 is never.
        seconds: wall seconds of that training.
        steps: optimiser steps that its tier plans, or where it plans epochs those of that training.
        selected: how many times it was chosen before, whether or not it replied.
        vectors: (K, p), what `Selector.vectors` asked for, or no columns; rows of NaN are unknown.
        round_number: the round to choose for, 1-based.
        batch_size: examples a step of local training.
        notes: what the selector wrote here in earlier rounds, as JSON; part of a checkpoint.
    """

    nodes: Sequence[NodeId]
    examples: Floats
    tiers: NDArray[np.intp]
    loss: Floats
    loss_square: Floats
    loss_tiers: NDArray[np.intp]
    last_round: Floats
    seconds: Floats
    steps: Floats
    selected: Floats
    vectors: NDArray[np.float32]
    round_number: int = 1
    batch_size: int = 1
    notes: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        nodes: Sequence[NodeId],
        *,
        round_number: int = 1,
        batch_size: int = 1,
        notes: dict[str, Any] | None = None,
        **columns: ArrayLike,
    ) -> Candidates:
        """Make candidates of which only some columns are known; a number stands for all nodes.

        Unless given, examples are 1, tiers 0, `loss_tiers` like `tiers`, counts 0, and the rest is unknown.
        """
        count = len(nodes)
        usual: dict[str, ArrayLike] = {
            "examples": 1,
            "tiers": 0,
            "loss": np.nan,
            "loss_square": np.nan,
            "loss_tiers": columns.get("tiers", 0),
            "last_round": 0,
            "seconds": np.nan,
            "steps": np.nan,
            "selected": 0,
        }
        vectors = np.asarray(columns.pop("vectors", np.empty((count, 0))), dtype=np.float32)
        if unknown := set(columns) - set(usual):
            raise TypeError(f"candidates have no columns {sorted(unknown)}")
        full: dict[str, Any] = {
            name: np.broadcast_to(
                np.asarray(value, dtype=np.intp if name in ("tiers", "loss_tiers") else np.float64), (count,)
            )
            for name, value in (usual | columns).items()
        }
        remembered: dict[str, Any] = {} if notes is None else notes
        return Candidates(
            nodes=nodes, vectors=vectors, round_number=round_number, batch_size=batch_size, notes=remembered, **full
        )

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def processed(self) -> Floats:
        """n_eff: training examples that a node gets through in a round, min(examples, steps · batch size).

        A node that has not trained yet counts with all its examples.
        """
        return np.fmin(self.examples, self.steps * self.batch_size)

    def selection(self, positions: ArrayLike, weights: ArrayLike | None = None) -> Selection:
        """Say who was chosen, by position; the only place where positions become ids."""
        chosen = np.asarray(positions, dtype=np.intp).tolist()
        factors = None if weights is None else tuple(np.asarray(weights, dtype=float).tolist())
        return Selection(tuple(self.nodes[i] for i in chosen), factors)


@dataclass(frozen=True, slots=True)
class Selection:
    """Who takes part.

    Attributes:
        nodes: distinct ids in the order in which the round will add their replies.
        weights: what numerator and denominator of each one's reply are multiplied by; None is 1 for everybody.
    """

    nodes: tuple[NodeId, ...]
    weights: tuple[float, ...] | None = None


class Probe(Protocol):
    """Asks candidates before deciding. Every call is a round trip, and a part of the state down to each one asked."""

    def losses(self, positions: Positions, *, batch: int = 0, common: bool = False) -> Floats:
        """Mean losses of the present state on the candidates' own training examples, in evaluation mode.

        Args:
            positions: whom to ask.
            batch: number of examples to draw for it; 0 takes all.
            common: ask about the part that the smallest tier keeps, instead of the candidate's own tier's.

        Returns:
            One loss per position (nats); NaN where no usable answer came.
        """

    def gradients(self, positions: Positions) -> NDArray[np.float32]:
        """Vectors (see `Selector.vectors`) of the gradient of that loss; they are remembered.

        Returns:
            (len(positions), p); rows of NaN where no usable answer came.
        """


@dataclass(frozen=True, slots=True)
class Vectors:
    """What a selector wants to know of every difference.

    Attributes:
        kind: one of `strategies.selection.update_sketch.KINDS`.
        size: number of coordinates of kind "projected".
        of_differences: whether the differences of training are to be remembered, or only gradients that are asked for.
    """

    kind: str
    size: int
    of_differences: bool


class Selector(ABC):
    """Chooses the nodes of a round; it keeps no state: what it needs is in the candidates and their notes."""

    @property
    def vectors(self) -> Vectors | None:
        """The vectors that are to be remembered of every node; None for none."""
        return None

    @property
    def squares(self) -> bool:
        """Whether training replies shall tell the mean squared loss per example."""
        return False

    @property
    def asks(self) -> bool:
        """Whether nodes may be asked something before the choice, which then takes as long as they do."""
        return False

    @property
    def sets_weights(self) -> bool:
        """Whether replies count equally, but for the selection's weights, as this selector's authors have it.

        A method that weighs by examples then does not: sizes that count in the choice must not count twice. What the
        user says about aggregation comes first.
        """
        return False

    def check(self, count: int, nodes: int) -> None:
        """Find what cannot be before anything starts.

        Args:
            count: how many will be chosen a round.
            nodes: how many nodes the run expects.

        Raises:
            SettingError: a setting that does not fit these numbers.
        """
        del count, nodes

    @abstractmethod
    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        """Choose nodes.

        Args:
            candidates: in order of their ids, so that draws do not depend on who said hello first.
            count: how many to choose, at most the number of candidates.
            draws: generator of this round's selection.
            probe: asks candidates for numbers.
        """
