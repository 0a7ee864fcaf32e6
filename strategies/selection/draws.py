"""The two ways to pick from scored candidates: the largest, and at random in proportion."""

from __future__ import annotations

import numpy as np

from strategies.selection.base import Floats, Positions


def in_proportion(weights: Floats, count: int, draws: np.random.Generator) -> Positions:
    """Draw positions one after the other without replacement, each time in proportion to the weights that are left.

    By the exponential race (Efraimidis and Spirakis 2006): arrival times Exp(1)/weight, the first ones win. One pass,
    whatever the count. Positions of weight 0 come last, at random.

    Args:
        weights: (K,), at least 0.
        count: at most K.
        draws: where the randomness comes from.
    """
    arrivals = draws.standard_exponential(len(weights))
    lanes = weights > 0
    times = np.where(lanes, arrivals / np.where(lanes, weights, 1.0), np.inf)
    if not lanes.all():
        return np.lexsort((arrivals, times))[:count]
    first = np.argpartition(times, count - 1)[:count] if 0 < count < len(times) else np.arange(len(times))
    return first[np.argsort(times[first])][:count]


def largest(scores: Floats, count: int, draws: np.random.Generator) -> Positions:
    """Positions of the largest scores, the largest first; ties at random. No score may be NaN."""
    if not count:
        return np.empty(0, dtype=np.intp)
    edge = np.partition(scores, len(scores) - count)[len(scores) - count] if count < len(scores) else -np.inf
    shuffled = draws.permutation(np.flatnonzero(scores >= edge))  # those above, and those that are tied at the edge
    return shuffled[np.argsort(-scores[shuffled], kind="stable")[:count]]
