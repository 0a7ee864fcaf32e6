"""FFA-LoRA (Sun et al., ICLR 2024, §4): A stays as it was drawn, B is trained and averaged.

With one A for all, Σ p_k·B_k·A is (Σ p_k·B_k)·A: the average of B by coordinate *is* the average of the products, and
nothing is multiplied twice by the noise of privacy. Half of the factors come back from a device. Of unlike ranks, of
which the paper does not speak, rank j of the product is averaged over those who held it.

A is part of the state and sent with it, as a device that comes in later has to have it.
"""

from __future__ import annotations

from dataclasses import replace

from models.algebra.plans import Plan
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.methods.ranks.base import RankMethod
from strategies.tiers.tier import Tier


class FFALoRA(RankMethod):
    """The first ranks of B; A is as it was drawn.

    Equation: column j of B becomes Σ nₖ·Bₖ[:, j] / Σ nₖ over the devices of rank above j; A stays.

    Traps: half of the numbers are trained: compare at equal trained numbers, not at equal rank.
    """

    EXACT_DOWN = True

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The tier's first ranks, on a fixed A."""
        del node
        return replace(self.kept_plan(context, tier), fixed=True)
