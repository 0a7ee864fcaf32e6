"""Facility location: few points that stand for all, chosen greedily.

With D the distances and S the chosen, G(S) = Σ_k min_{i∈S} D_ki is what is left over. Making it small is the same as
making Σ_k (c - min_{i∈S} D_ki) large for a constant c ≥ max D, which is monotone and submodular: taking the largest
gain m times comes within 1 - 1/e of the best (Nemhauser, Wolsey, Fisher 1978). The first pick is the medoid. Ties go to
the lowest position, in every variant.

Gains are always summed in the same way, so that a gain that was computed earlier bounds the present one in floating
point too (each term can only shrink, and rounded sums are monotone); the lazy variant therefore picks the same
positions as the greedy one, bit for bit (Minoux 1978).
"""

from __future__ import annotations

from heapq import heapify, heapreplace

import numpy as np
import torch
from numpy.typing import NDArray

from strategies.selection.base import Floats, Positions


def distances(vectors: NDArray[np.float32]) -> Floats:
    """Euclidean distances of rows, (K, p) → (K, K); symmetric, diagonal 0, equal rows at exactly 0.

    Every pair is summed by itself, in float64: a row that changes changes nothing but its own row and column.
    """
    count = len(vectors)
    result = np.zeros((count, count))
    upper = np.triu_indices(count, 1)
    # Not through a matrix product: near-equal rows would cancel, and pairs would depend on where they stand.
    result[upper] = torch.pdist(torch.from_numpy(vectors.astype(np.float64))).numpy()
    return np.asarray(result + result.T)


def left_over(distance: Floats, chosen: Positions) -> float:
    """G(S): the sum over all of the distance to the nearest chosen one."""
    return float(distance[:, chosen].min(axis=1).sum())


def represented(distance: Floats, chosen: Positions) -> NDArray[np.intp]:
    """γ: for how many each chosen one is the nearest, (m,); they sum to K.

    A chosen one stands for itself even if another is as near; other ties go to the lowest position.
    """
    order = np.argsort(chosen)
    nearest = order[distance[:, chosen[order]].argmin(axis=1)]
    nearest[chosen] = np.arange(len(chosen))
    return np.bincount(nearest, minlength=len(chosen))


def greedy(distance: Floats, count: int) -> Positions:
    """Take the largest gain `count` times, computing every gain every time: O(m·K²).

    Args:
        distance: (K, K), symmetric.
        count: 1 to K.

    Returns:
        Positions in the order in which they were picked.
    """
    return stochastic(distance, count, len(distance), None)


def stochastic(distance: Floats, count: int, sample: int, draws: np.random.Generator | None) -> Positions:
    """Take `count` times the largest gain among a random sample of those that are left (Mirzasoleiman et al. 2015).

    Args:
        distance: (K, K), symmetric.
        count: 1 to K.
        sample: how many are looked at each time; K/m · ln(1/ε) gives 1 - 1/e - ε in expectation, K is `greedy`.
        draws: where the samples come from; not needed where a sample is everybody.
    """
    left = np.arange(len(distance))
    nearest: Floats | None = None
    chosen = []
    for _ in range(count):
        if sample >= len(left):
            seen = left
        else:
            assert draws is not None  # a sample that is not everybody
            seen = np.sort(draws.choice(left, sample, replace=False))
        picked = int(seen[_gains(distance, seen, nearest).argmax()])
        chosen.append(picked)
        nearest = distance[picked] if nearest is None else np.minimum(nearest, distance[picked])
        left = left[left != picked]
    return np.array(chosen, dtype=np.intp)


def lazy(distance: Floats, count: int) -> Positions:
    """`greedy`, computing a gain only when its last value is the largest of all: a queue of upper bounds."""
    everybody = np.arange(len(distance))
    first = int(_gains(distance, everybody, None).argmax())
    chosen, nearest = [first], distance[first]
    # One pass over all gains bounds them better than those of the empty set, and costs as much as a few picks.
    queue = [(-gain, i) for i, gain in enumerate(_gains(distance, everybody, nearest).tolist()) if i != first]
    heapify(queue)
    while len(chosen) < count:
        bound, i = queue[0]
        gain = float(_gains(distance, i, nearest))
        if -gain != bound:
            heapreplace(queue, (-gain, i))
            continue
        # The bound is still exact; whoever is as good and comes before i would stand before it in the queue.
        heapreplace(queue, (np.inf, i))
        chosen.append(i)
        nearest = np.minimum(nearest, distance[i])
    return np.array(chosen, dtype=np.intp)


def _gains(distance: Floats, of: int | Positions, nearest: Floats | None) -> Floats:
    """By how much G falls with each of these; against the empty set up to a constant. Always summed along rows."""
    if nearest is None:
        return -np.asarray(distance[of].sum(axis=-1))
    return np.asarray(np.maximum(nearest - distance[of], 0.0).sum(axis=-1))
