"""How evenly a model serves the clients: the measures of q-FFL (Li et al., ICLR 2020, §4 and appendix).

Of the vector of per-client accuracies, one entry per client, whatever its number of examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import atan2, fsum, log, sqrt
from operator import itemgetter
from typing import Any


def fairness(accuracies: Sequence[float]) -> dict[str, float]:
    """Describe a vector of accuracies; every number is finite for one client or more.

    Args:
        accuracies: one share of right predictions per client, 0 to 1, not empty.

    Returns:
        "clients": N;
        "mean": plain mean over clients, 0 to 1;
        "variance_points2": population variance of the accuracies in percent points;
        "worst_10_percent_mean", "best_10_percent_mean": mean of the floor(N/10) lowest and highest, at least of one;
        "percentile_10": the value below which a tenth of the clients lies, interpolated, which is *not* the mean of
        the worst tenth though public code reports it as such;
        "angle": radians between the vector and the all-ones vector, 0 for a constant vector;
        "kl_uniform": Kullback-Leibler divergence (nats) of the vector, scaled to sum 1, from the uniform
        distribution; 0 for a constant vector.

    Raises:
        ValueError: no accuracies.
    """
    if not accuracies:
        raise ValueError("fairness is of one client or more")
    ordered, count = sorted(accuracies), len(accuracies)
    total, tenth = fsum(ordered), max(1, count // 10)
    mean = total / count
    spread = fsum((value - mean) ** 2 for value in ordered)
    place = 0.1 * (count - 1)
    low, above = int(place), ordered[min(int(place) + 1, count - 1)]
    shares = [value / total for value in ordered if value > 0]
    return {
        "clients": count,
        "mean": mean,
        "variance_points2": 1e4 * spread / count,
        "worst_10_percent_mean": fsum(ordered[:tenth]) / tenth,
        "best_10_percent_mean": fsum(ordered[-tenth:]) / tenth,
        "percentile_10": ordered[low] + (place - low) * (above - ordered[low]),
        # Not the arc cosine of the cosine, which loses half of the digits where they matter, near 0.
        "angle": atan2(sqrt(spread), mean * sqrt(count)),
        # 0 · log 0 is 0; and no less than 0, whatever the rounding.
        "kl_uniform": max(0.0, fsum(share * log(share * count) for share in shares if share)),
    }


def fairness_by_tier(scores: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """The same for everybody and, under "tiers", for each tier, by name.

    Args:
        scores: tier and accuracy of every client, not empty.
    """
    of_tier: dict[str, list[float]] = {}
    for tier, accuracy in sorted(scores, key=itemgetter(0)):
        of_tier.setdefault(tier, []).append(accuracy)
    each = {tier: fairness(accuracies) for tier, accuracies in of_tier.items()}
    return {**fairness([accuracy for _, accuracy in scores]), "tiers": each}
