"""FjORD (Horvath et al., NeurIPS 2021): ordered dropout.

A device of width p_max holds the leading ceil(p_max·n) units (§3.1) and redraws its width p ≤ p_max every batch, with
the widest part as teacher if distillation is on (§3.3). Between two consecutive widths the server averages over the
devices whose p_max reaches that ring, weighted by examples (§4.2, eq. 2); statistics of batch norm exist once per
width.
"""

from __future__ import annotations

from models.algebra.plans import Plan, leading
from models.algebra.rates import ascending
from models.settings import Setting, between
from protocol import Objective
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences
from strategies.tiers.tier import Tier


class Fjord(FlowerStrategy):
    """Nested widths, redrawn every batch.

    Options: `distillation` (False), `alpha` (1.0) and `temperature` (1.0) of the distillation.

    Equation: θⱼ ← Σ nₖ·θₖⱼ / Σ nₖ over the devices whose widest part has coordinate j (eq. 2). Every batch a device
    draws p evenly from the widths up to its own and minimises CE(f_p); with distillation CE(f_pmax) + (1 -
    α)·CE(f_p) + α·T²·KL(f_pmax ‖ f_p).

    Traps: a device computes up to its widest part and sends all of it, whatever it draws. A tier's width is trained
    in a share of the steps only, so short runs favour methods that train one width.
    """

    OPTIONS = {
        "distillation": Setting(False, "the widest part teaches the drawn one"),
        "alpha": Setting(
            1.0, "share of that teaching in the loss of the drawn part, beside the labels; 0 is none", between(0, 1)
        ),
        "temperature": Setting(1.0, "of that teaching", between(1e-3, 1e3)),
    }
    PREFERENCES = Preferences(norm="batch-per-width")
    BY_EXAMPLES = True
    PER_WIDTH = True

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The leading part of the tier's rate, which is the widest that the device draws."""
        del context, node
        return leading(tier.rate)

    def objective(self, context: RoundContext, tier: Tier) -> Objective:
        """Ordered dropout over all widths; the device leaves out those that are not inside its own."""
        del tier
        rates = ascending(tier.rate for tier in context.settings.tiers)
        return Objective("ordered-dropout", {"rates": ",".join(map(str, rates)), **self.options})
