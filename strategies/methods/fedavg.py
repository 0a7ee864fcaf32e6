"""FedAvg and the two baselines that everybody forgets.

- `FedAvg`: McMahan et al., AISTATS 2017, Algorithm 1. Everyone trains the full network; replies weigh by examples (or
  equally, with aggregation "uniform"). It ignores what devices can carry: the ceiling, not a competitor.
- `Smallest`: everyone trains the part of the smallest tier.
- `Exclusive`: only nodes that can hold the full network take part (DepthFL, ICLR 2023, Table 2).
"""

from __future__ import annotations

from models.algebra.plans import Plan
from models.algebra.rates import Rate, met
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.tiers.tier import Tier


class FedAvg(FlowerStrategy):
    """Everything for everyone, weighted by examples.

    Equation: w ← w + Σ nₖ·Δₖ / Σ nₖ, with Δₖ what device k changed and nₖ its examples.

    Traps: it asks devices for what they cannot hold, so it is a ceiling and no competitor; of a smaller tier a
    leading part is scored that nobody trained as such.
    """

    BY_EXAMPLES = True

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """Everybody trains the full network here, whatever they could carry."""
        del context, tier, wanted
        return True


class Smallest(FedAvg):
    """The smallest tier's part for everyone.

    Equation: FedAvg's, of the network whose rate is the least of all tiers'.

    Traps: tables without this baseline hide that a method's small tiers may be worse than it.
    """

    PER_WIDTH = True

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The leading part that everyone can hold."""
        del node, tier
        return Plan(self.global_rate(context))

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """The same part: nothing wider was ever trained."""
        del tier
        return Plan(self.global_rate(context))

    def global_rate(self, context: RoundContext) -> Rate:
        """The smallest tier's; of tiers that do not lie inside each other, what all have in common."""
        return met(tier.rate for tier in context.settings.tiers)


class Exclusive(FedAvg):
    """The full network, by those who can hold it.

    Equation: FedAvg's, over the devices of rate 1.

    Traps: `fraction-train` is a share of those who may take part, so a round has fewer devices than one of another
    method.
    """

    def eligible(self, context: RoundContext, tier: Tier) -> bool:
        """Whether the tier can hold the full network."""
        del context
        return tier.rate == 1

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """As far as the tier goes."""
        del context
        return tier.rate >= wanted.rate
