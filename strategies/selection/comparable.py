"""Losses of devices in different tiers, made comparable.

A narrow submodel has the higher loss by itself. Taken as they are ("raw"), losses send a loss-based selector to the
weakest tier again and again, for a reason that has nothing to do with the devices' data (and a penalty for slow
devices then cancels it). Two ways out:

- "tier-rank", the default. A device is compared with the devices of its own tier, which trained or scored a submodel of
  the same size, by quantile normalisation (Bolstad et al. 2003): a loss that exceeds the share q of its tier's losses
  is replaced by the quantile q of all losses. Why this and not the bare rank: within one tier nothing changes, bit for
  bit, so with a single tier every rule is its authors'; the result is in nats, so that a product with sizes and times
  still means something; and each tier gets its share of the top. It costs nothing and works for losses that came with
  training. Its limit: a tier needs several devices among those compared; the only one of its tier counts as average.
- "common": everybody is asked about the same submodel, the smallest tier's part. The losses are then truly those of
  one model, at the price of a probe, and of judging a wide device by a part of what it trains.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from strategies.selection.base import Floats

COMPARISONS = ("tier-rank", "common", "raw")
_QUANTILE, MOST = 0.75, 10.0  # losses count up to so many times their quantile
WITHOUT_PROBE = ("tier-rank", "raw")  # losses that came with training are each of its own part


def within_tiers(losses: Floats, tiers: NDArray[np.intp]) -> Floats:
    """Quantile normalisation by tier.

    Args:
        losses: (K,); what is not finite stays as it is and counts nowhere.
        tiers: (K,) tier in which each loss arose.

    Returns:
        (K,). Quantiles are Hazen's, (i - 1/2)/n; equal losses of a tier stay equal.
    """
    known = np.flatnonzero(np.isfinite(losses))
    order = known[np.argsort(losses[known])]  # sorted once; every tier is a part of it
    pooled, of_tier = losses[order], tiers[order]
    grid = (np.arange(len(pooled)) + 0.5) / max(1, len(pooled))
    result = losses.copy()
    for tier in np.unique(of_tier):
        members = order[of_tier == tier]
        own = losses[members]
        starts = np.flatnonzero(np.diff(own, prepend=-np.inf))  # where another loss begins
        ends = np.append(starts[1:], len(own))
        result[members] = np.interp(np.repeat(starts + ends, ends - starts) / (2 * len(own)), grid, pooled)
    return result


def believed(losses: Floats, most: float = MOST) -> Floats:
    """Losses of which none counts for more, below zero neither, than `most` times the 0.75 quantile of those known.

    A node that says it is badly served is chosen, and nobody can see whether it is true. But however large a number it
    says, those of the others still differ from each other.

    Args:
        losses: (K,); what is not finite stays as it is.
        most: 1 or more.

    Returns:
        (K,); the same array where nothing is beyond that.
    """
    sizes, known = np.abs(losses), np.isfinite(losses)
    bound = most * float(np.quantile(sizes[known], _QUANTILE, method="lower")) if known.any() else 0.0
    return np.where(known & (sizes > bound), np.copysign(bound, losses), losses) if bound > 0 else losses
