"""Uniform and size-weighted selection, both without replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol import NodeId
from strategies.selection.base import Candidate, Probe, Selector


class Uniform(Selector):
    """Every candidate is equally likely (McMahan et al. 2017, Algorithm 1)."""

    def select(
        self, candidates: Sequence[Candidate], count: int, draws: np.random.Generator, probe: Probe
    ) -> list[NodeId]:
        """Choose uniformly without replacement."""
        del probe
        return [candidates[i].node for i in draws.choice(len(candidates), count, replace=False)]


class BySize(Selector):
    """One after the other, each time in proportion to the examples of those that are left."""

    def select(
        self, candidates: Sequence[Candidate], count: int, draws: np.random.Generator, probe: Probe
    ) -> list[NodeId]:
        """Choose in proportion to examples, without replacement."""
        del probe
        sizes = np.array([candidate.examples for candidate in candidates], dtype=float)
        chosen = draws.choice(len(candidates), count, replace=False, p=sizes / sizes.sum())
        return [candidates[i].node for i in chosen]
