"""How evenly a model serves the clients: the measures of q-FFL (Li et al., ICLR 2020, §4 and appendix).

Of the vector of per-client accuracies, one entry per client, whatever its number of examples; or of losses and errors,
of which less is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import atan2, fsum, log, sqrt
from operator import itemgetter
from typing import Any


def fairness(figures: Sequence[float], *, higher: bool = True, share: bool = True) -> dict[str, float]:
    """Describe a vector of accuracies, or of what is measured in their place; every number is finite.

    Args:
        figures: of each client one, not empty: its share of right predictions, 0 to 1, or an error of at least 0.
        higher: whether more is better.
        share: whether it is a share.

    Returns:
        "clients": N;
        "mean": plain mean over clients;
        "variance_points2": population variance of shares in percent points; of what is no share "variance";
        "worst_10_percent_mean", "best_10_percent_mean": mean of the floor(N/10) worst and best, at least of one;
        "percentile_10": the value that a tenth of the clients is worse than, interpolated, which is *not* the mean of
        the worst tenth though public code reports it as such;
        "angle": radians between the vector and the all-ones vector, 0 for a constant vector;
        "kl_uniform": Kullback-Leibler divergence (nats) of the vector, scaled to sum 1, from the uniform
        distribution; 0 for a constant vector.

    Raises:
        ValueError: no figures.
    """
    if not figures:
        raise ValueError("fairness is of one client or more")
    ordered, count = sorted(figures, reverse=not higher), len(figures)  # the worst first
    total, tenth = fsum(ordered), max(1, count // 10)
    mean = total / count
    spread = fsum((value - mean) ** 2 for value in ordered)
    place = 0.1 * (count - 1)
    low, above = int(place), ordered[min(int(place) + 1, count - 1)]
    shares = [value / total for value in ordered if value > 0]
    return {
        "clients": count,
        "mean": mean,
        **({"variance_points2": 1e4 * spread / count} if share else {"variance": spread / count}),
        "worst_10_percent_mean": fsum(ordered[:tenth]) / tenth,
        "best_10_percent_mean": fsum(ordered[-tenth:]) / tenth,
        "percentile_10": ordered[low] + (place - low) * (above - ordered[low]),
        # Not the arc cosine of the cosine, which loses half of the digits where they matter, near 0.
        "angle": atan2(sqrt(spread), mean * sqrt(count)),
        # 0 · log 0 is 0; and no less than 0, whatever the rounding.
        "kl_uniform": max(0.0, fsum(share * log(share * count) for share in shares if share)),
    }


def fairness_by_tier(scores: Sequence[tuple[str, float]], *, higher: bool = True, share: bool = True) -> dict[str, Any]:
    """The same for everybody and, under "tiers", for each tier, by name.

    Args:
        scores: tier and figure of every client, not empty.
        higher, share: see `fairness`.
    """
    of_tier: dict[str, list[float]] = {}
    for tier, figure in sorted(scores, key=itemgetter(0)):
        of_tier.setdefault(tier, []).append(figure)
    each = {tier: fairness(figures, higher=higher, share=share) for tier, figures in of_tier.items()}
    return {**fairness([figure for _, figure in scores], higher=higher, share=share), "tiers": each}
