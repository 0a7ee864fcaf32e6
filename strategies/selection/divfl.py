"""DivFL (Balakrishnan et al., ICLR 2022): diverse clients by facility location over their gradients.

The chosen S shall stand for everybody: ‖Σ_k ∇F_k - Σ_{i∈S} γ_i ∇F_i‖ ≤ Σ_k min_{i∈S} ‖∇F_k - ∇F_i‖, where γ_i is the
number of clients whose nearest chosen one is i; greedy selection makes the right side small.

Whose vectors, and when (`refresh`):

- "updates" (default): what the nodes' own training sent, free of charge. Who has never been seen is chosen first, at
  random, so everybody has a vector after K/m rounds. Vectors are as old as the last training.
- "participants": gradients of the present state. Everybody is asked once, before the first round, and then those who
  are chosen, before they train: the cheap version that the authors' code runs.
- "everyone": gradients of everybody, every round: all distances at the same state, as the bound wants it, for K parts
  down and K gradients up.

Weights: "gamma" (default) is what the derivation implies; "plain" weighs all alike; "size" are the
examples that the authors' code uses.

Differences of unlike submodels are compared in the coordinates of the global state, 0 where a device holds nothing:
that is what enters the sum on the left side. Devices of one tier are therefore nearer to each other. Diverse is not
good: devices with wrong labels are diverse too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import SettingError
from models.settings import Names, at_least, between, check, setting
from strategies.selection.base import (
    Candidates,
    Floats,
    Positions,
    Probe,
    Selection,
    Selector,
    Vectors,
)
from strategies.selection.facility import distances, greedy, lazy, represented, stochastic
from strategies.selection.update_sketch import KINDS

GREEDY = ("lazy", "greedy", "stochastic")
REFRESH = ("updates", "participants", "everyone")
WEIGHTS = ("gamma", "plain", "size")
_HERE = "selection = divfl"
MOST_NODES = 10_000  # distances of this many take 800 MB, and seconds every round


@dataclass(frozen=True, kw_only=True)
class DivFL(Selector):
    """Facility location over what is known of the nodes' gradients.

    Attributes:
        kind: which coordinates vectors have, one of `strategies.selection.update_sketch.KINDS`.
        refresh: one of `REFRESH`.
        algorithm: one of `GREEDY`; the first two pick the same.
        sample: candidates that "stochastic" looks at for each pick; 0 is max(m, K/10), as in the authors' code.
        size: coordinates of "projected" vectors.
        weights: one of `WEIGHTS`.
    """

    kind: str = setting(
        "projected",
        "`projected` (count sketch in the global coordinates), `last-layer`, `all`. What a device's part does not"
        " hold is 0 in them, as it is in the sum that the chosen stand for, so devices of one width look alike, and"
        " `last-layer` of unlike widths compares few coordinates",
        Names(KINDS),
        key="divfl-vectors",
        read_by=_HERE,
    )
    refresh: str = setting(
        "updates",
        "`updates`: differences of past trainings, over learning rate and steps, free; `participants`: gradients of"
        " everybody once, then of those chosen; `everyone`: gradients of everybody every round",
        Names(REFRESH),
        key="divfl-refresh",
        read_by=_HERE,
    )
    algorithm: str = setting(
        "lazy",
        "`lazy`, `greedy` (the same picks, slower), `stochastic`",
        Names(GREEDY),
        key="divfl-greedy",
        advanced=True,
        read_by=_HERE,
    )
    sample: int = setting(
        0,
        "candidates that `stochastic` looks at for every pick; 0 is max(chosen, nodes/10)",
        at_least(0),
        key="divfl-sample",
        advanced=True,
        read_by=_HERE,
    )
    size: int = setting(
        256, "coordinates of `projected`", between(1, 65_536), key="divfl-size", advanced=True, read_by=_HERE
    )
    weights: str = setting(
        "gamma",
        "replies count `gamma` (for how many nodes they stand), `plain`, `size` (examples), times what `aggregation`"
        " says",
        Names(WEIGHTS),
        key="divfl-weights",
        advanced=True,
        read_by=_HERE,
    )

    def __post_init__(self) -> None:
        """Check what does not depend on the number of nodes.

        Raises:
            SettingError: see there.
        """
        check(self)

    @property
    def vectors(self) -> Vectors:
        """Every node's gradient, or the difference that stands for it."""
        return Vectors(self.kind, self.size, self.refresh == "updates")

    @property
    def asks(self) -> bool:
        """For gradients, unless the differences of rounds stand for them."""
        return self.refresh != "updates"

    @property
    def sets_weights(self) -> bool:
        """The sum that is to be approximated counts every client once."""
        return True

    def check(self, count: int, nodes: int) -> None:
        """Refuse more nodes than distances can be kept of; see `Selector.check`."""
        del count
        if nodes > MOST_NODES:
            allowed = f"another selector for more than {MOST_NODES:,} nodes: DivFL compares them in pairs"
            raise SettingError("selection", "divfl", allowed)

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        """Choose who stands for everybody; without probes, who was never seen goes first."""
        asked = self._to_ask(candidates)
        vectors = candidates.vectors.copy()
        if len(asked):
            vectors[asked] = probe.gradients(asked)
        seen: NDArray[np.bool_] = np.logical_not(np.isnan(vectors).any(axis=1))
        new, silent = (draws.permutation(part) for part in self._without(candidates, seen))
        known = np.flatnonzero(seen)
        distance = distances(vectors[known])
        picked = self._picked(distance, min(len(known), max(0, count - len(new))), draws)
        chosen = np.concatenate([new, known[picked], silent])[:count]  # the silent ones only to make up the number
        if self.refresh == "participants" and len(stale := chosen[~np.isin(chosen, asked)]):
            probe.gradients(stale)  # of this state, for the rounds to come
        if self.weights == "plain":
            return candidates.selection(chosen)
        if self.weights == "size":
            return candidates.selection(chosen, candidates.examples[chosen])
        gamma = np.ones(len(chosen))  # who has no vector stands for itself
        if len(picked):
            start = min(len(new), count)
            gamma[start : start + len(picked)] = represented(distance, picked)
        return candidates.selection(chosen, gamma)

    def _to_ask(self, candidates: Candidates) -> Positions:
        """Whose gradients are asked for before the choice."""
        if self.refresh == "updates":
            return np.empty(0, dtype=np.intp)
        if self.refresh == "everyone":
            return np.arange(len(candidates))
        return np.flatnonzero(np.isnan(candidates.vectors).any(axis=1))

    def _without(self, candidates: Candidates, seen: NDArray[np.bool_]) -> tuple[Positions, Positions]:
        """Who has no vector: those to be chosen first, and those that were asked or chosen and did not answer."""
        silent = ~seen & ((candidates.selected > 0) | (self.refresh != "updates"))
        return np.flatnonzero(~seen & ~silent), np.flatnonzero(silent)

    def _picked(self, distance: Floats, count: int, draws: np.random.Generator) -> Positions:
        """Positions among those with a vector."""
        if not count:
            return np.empty(0, dtype=np.intp)
        if self.algorithm == "stochastic":
            sample = self.sample or max(count, len(distance) // 10)
            return stochastic(distance, count, sample, draws)
        return (lazy if self.algorithm == "lazy" else greedy)(distance, count)
