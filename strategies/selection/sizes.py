"""Selection in proportion to examples, p_k = n_k/n, without and with replacement.

Li et al., "On the Convergence of FedAvg on Non-IID Data" (ICLR 2020, §3.3), analyse both: scheme I draws with
replacement and takes the plain mean over the draws, which is unbiased. Size counts in the draw, so replies do not weigh
by examples once more.
"""

from __future__ import annotations

import numpy as np

from strategies.selection.base import Candidates, Probe, Selection, Selector
from strategies.selection.draws import in_proportion


class BySize(Selector):
    """One after the other, each time in proportion to the examples of those that are left."""

    @property
    def sets_weights(self) -> bool:
        """Size counts in the draw."""
        return True

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        """Choose in proportion to examples, without replacement."""
        del probe
        return candidates.selection(in_proportion(candidates.examples, count, draws))


class BySizeWithReplacement(Selector):
    """Independent draws in proportion to examples.

    A node that is drawn r times trains once and its reply counts r times: the mean over draws, at the cost of fewer
    nodes. (Training r times from the same state would differ only in the order of its batches.)
    """

    @property
    def sets_weights(self) -> bool:
        """Size counts in the draw."""
        return True

    def select(self, candidates: Candidates, count: int, draws: np.random.Generator, probe: Probe) -> Selection:
        """Draw `count` times; the distinct nodes take part, in the order of their first draw."""
        del probe
        total = np.cumsum(candidates.examples)
        # side="right": a node of n examples owns the half-open interval of length n that ends at its cumulative sum.
        drawn = np.searchsorted(total, draws.random(count) * total[-1], side="right")
        nodes, first, times = np.unique(np.minimum(drawn, len(total) - 1), return_index=True, return_counts=True)
        order = np.argsort(first)
        return candidates.selection(nodes[order], times[order])
