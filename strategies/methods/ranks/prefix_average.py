"""Averages over those who held a rank.

- `PrefixAverage`: row j of A and column j of B are averaged over the devices of rank j or more, by examples; ranks that
  nobody held stay. RBLA (Tavallaie et al., ICWS 2024) has this denominator; FediLoRA's first step (IJCAI 2026) too.
- `NestedRanks`: the same at the server, and in every step the device draws one of the run's ranks up to its own and
  trains that much of its pairs, as FjORD does with widths (Horváth et al., NeurIPS 2021, §3.1, eq. 2). PreLort (2026)
  says the same of ranks: each adapter is trained under several truncations, and a segment of ranks is averaged over
  those who contribute to it. Its abstract was all that could be had; what it does beyond that is not in here.

Both are the average by coordinate that every method has, of the first ranks: there is nothing else to them. Prefixes
nest only because the factor in front is α/R for every device.
"""

from __future__ import annotations

from strategies.methods.fjord import Fjord
from strategies.methods.ranks.base import RankMethod


class PrefixAverage(RankMethod):
    """The first ranks, averaged over those who held them.

    Equation: A[j] ← Σ nₖ·Aₖ[j] / Σ nₖ over the devices of rank above j, and column j of B likewise.

    Traps: the mean of factors is not the factor of the mean product: B̄·Ā has cross terms between devices.
    """


class NestedRanks(Fjord, RankMethod):
    """Nested ranks, redrawn every step.

    Options: FjORD's.

    Equation: `PrefixAverage`'s, of devices that draw a rank ρ evenly from the tiers' up to their own in every step
    and train the first ρ.

    Traps: as with FjORD a rank is trained in a share of the steps only.
    """

    PREFERENCES = RankMethod.PREFERENCES
