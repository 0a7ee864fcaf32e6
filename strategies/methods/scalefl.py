"""ScaleFL (Ilhan et al., CVPR 2023): width and depth together.

A device holds the leading ceil(r·n) units of the stages up to its depth, with a plain exit after each (§3.2). Exit i of
d weighs i/Σj; from a share of the rounds on every exit but the last learns from the last (§3.3, eq. 3: T = 3). The
server averages every coordinate over those who trained it. A tier's rate and depth are settings ("b:3/4@3"); the
paper's levels have rates of 0.7 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from models.algebra.plans import Plan
from models.settings import Setting, between
from protocol import Objective, Scalar
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences
from strategies.tiers.tier import Tier


class ScaleFL(FlowerStrategy):
    """Leading widths up to a depth.

    Options: `distillation` (0.05): γ, 0 is off; `temperature` (3.0); `distillation-after` (0.25): the share of
    the run's rounds (`Schedule.rounds`) that goes by without it first, in the paper a quarter.
    """

    OPTIONS = {
        "distillation": Setting(0.05, "γ: weight of the last exit's teaching; 0 is off", between(0, 1e3)),
        "temperature": Setting(3.0, "of that teaching", between(1e-3, 1e3)),
        "distillation-after": Setting(
            0.25,
            "the share of `num-server-rounds` that goes by before it begins; 1 is never. Between 0 and 1, a run cannot"
            " be resumed with more rounds",
            between(0, 1),
        ),
    }
    PREFERENCES = Preferences(norm="static-batch", scaler=True, exits=("plain", "bottleneck"))
    PER_WIDTH = True

    @classmethod
    def by_length(cls, options: Mapping[str, Scalar]) -> bool:
        """Distillation begins after a share of the run."""
        return bool(options["distillation"]) and 0 < float(options["distillation-after"]) < 1

    def global_rate(self, context: RoundContext) -> Fraction:
        """The largest rate among the deepest tiers, whose last exit somebody trains as wide as that."""
        depths = {tier: context.depth_of(tier) for tier in context.settings.tiers}
        return max(tier.rate for tier, depth in depths.items() if depth == max(depths.values()))

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The tier's width and depth."""
        del node
        return self.kept_plan(context, tier)

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """What the tier trains."""
        return Plan(tier.rate, depth=context.depth_of(tier))

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """Tiers differ in width and depth."""
        return tier.rate >= wanted.rate and context.depth_of(tier) >= context.depth_of(wanted)

    def objective(self, context: RoundContext, tier: Tier) -> Objective:
        """Deep supervision, deeper exits weighing more, with the last as teacher in later rounds."""
        del tier
        settings: dict[str, Scalar] = {"by-depth": True}
        if context.round_number - 1 >= float(self.options["distillation-after"]) * context.settings.schedule.rounds:
            settings |= {
                "distillation": "last",
                "weight": self.options["distillation"],
                "temperature": self.options["temperature"],
            }
        return Objective("deep-supervision", settings)
