"""Uniform selection."""

from __future__ import annotations

import numpy as np

from strategies.selection.base import Candidates, Probe, Selection, Selector


class Uniform(Selector):
    """Every candidate is equally likely, without replacement (McMahan et al. 2017, Algorithm 1)."""

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        """Choose uniformly."""
        del probe
        return candidates.selection(draws.choice(len(candidates), count, replace=False))
