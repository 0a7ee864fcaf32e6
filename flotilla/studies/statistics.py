"""Means over seeds, and what two rows differ by on the same seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from flotilla.studies.results import Result

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over runs.

    Attributes:
        mean: of the values.
        deviation: standard deviation of a sample; None of one value.
        count: of the values.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more one row has than another, by pairs of runs with the same seed.

    Attributes:
        mean: of the pairs' differences.
        half: half the width of its confidence interval by Student's t; None of one pair.
        count: of the pairs.
    """

    mean: float
    half: float | None
    count: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.half is not None and abs(self.mean) > self.half


def spread(values: Sequence[float]) -> Spread:
    """Of some values, at least one."""
    return Spread(mean(values), stdev(values) if len(values) > 1 else None, len(values))


def paired(ours: Sequence[Result], theirs: Sequence[Result], of: Callable[[Result], float]) -> Difference | None:
    """Ours less theirs, over the seeds that both have; None if there are none.

    A row that has a seed twice (a run by itself that was repeated) counts with the mean of them.
    """
    pairs = [_by_seed(one, of) for one in (ours, theirs)]
    both = [seed for seed in pairs[0] if seed in pairs[1]]
    if not both:
        return None
    differences = [pairs[0][seed] - pairs[1][seed] for seed in both]
    half = None
    if len(differences) > 1:
        from scipy.stats import t  # half a second, which only a comparison needs

        half = float(t.ppf(0.5 + LEVEL / 2, len(differences) - 1)) * stdev(differences) / sqrt(len(differences))
    return Difference(mean(differences), half, len(differences))


def _by_seed(results: Sequence[Result], of: Callable[[Result], float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for result in results:
        found.setdefault(str(result.seed), []).append(of(result))
    return {seed: mean(values) for seed, values in found.items()}


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, score) nobody beats: no other is at least as good in both and better in one (Pareto)."""
    return [
        not any(
            cost <= mine and score >= own and (cost < mine or score > own)
            for j, (cost, score) in enumerate(points)
            if j != i
        )
        for i, (mine, own) in enumerate(points)
    ]
