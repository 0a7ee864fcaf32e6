"""RAVAN (Raje et al., NeurIPS 2025, arXiv 2506.05568): heads between frozen factors, some of which a device trains.

ΔW = (α/R)·Σ_i s_i·B_i·H_i·A_i over h heads of R/h ranks each. All B_i and A_i are the same for everybody, frozen, and
orthogonal to each other (Gram-Schmidt); H_i begins at zero, s_i at 1. A device *holds* all heads and trains H_i
and s_i of so many of them as it can; it sends s_i·H_i, and begins the next round at s_i = 1. The server averages each
head over those who trained it, so the average of what travels *is* that of the products, head by head. A head has
(R/h)² numbers: with as many numbers as a pair of factors has, R is many times the pair's rank.

A device of rank r trains ⌈h·r/R⌉ heads, drawn each round anew; all devices compute the whole network, so tiers differ
in what they train and send, and in nothing of what they are scored on. Not in here: the choice of heads by the size of
their weights or gradients, and factors of other distributions, which the paper compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from models.adapters.adapter import HEADS, Adapter
from models.algebra.plans import Plan, kept_units
from models.algebra.rates import single
from models.errors import SettingError
from models.randomness import generator
from models.settings import Setting, between
from protocol import Scalar
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.methods.ranks.base import RankMethod
from strategies.settings import Settings
from strategies.tiers.tier import Tier


class Ravan(RankMethod):
    """Random heads, averaged over those who trained them.

    Options: `heads` (4): h, a divisor of R.

    Equation: ΔW = (α/R)·Σᵢ sᵢ·Bᵢ·Hᵢ·Aᵢ with Bᵢ and Aᵢ fixed; sᵢ·Hᵢ becomes its mean, by examples, over the devices
    that trained head i.

    Traps: every device computes and holds all heads: tiers differ in what they train and send only.
    """

    OPTIONS: ClassVar[Mapping[str, Setting]] = {
        "heads": Setting(
            4, "number of heads, a divisor of the adapter's rank; a device trains its share", between(1, 64)
        ),
    }
    WIDTHS = False
    EXACT_DOWN = True

    @classmethod
    def form(cls, adapter: Adapter, settings: Settings, options: Mapping[str, Scalar]) -> Adapter:
        """With heads in place of pairs.

        Raises:
            SettingError: heads are no divisor of the rank.
        """
        heads = int(options["heads"])
        if adapter.rank % heads:
            raise SettingError("ravan-heads", heads, f"a divisor of {adapter.rank}, the adapter's rank")
        return replace(adapter, form=HEADS, heads=heads, seed=settings.seed)

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """Everything, of which some heads are trained."""
        heads = int(self.options["heads"])
        draws = generator(context.settings.seed, context.round_number, node.id, "heads")
        trained = draws.permutation(heads)[: kept_units(heads, single(tier.rate))]
        return Plan(untrained=tuple(sorted(set(range(1, heads + 1)) - {int(one) + 1 for one in trained})))

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """Everything, for every tier."""
        del context, tier
        return Plan()
