"""FedRolex (Alam et al., NeurIPS 2022, §3.2): HeteroFL with a window that moves by one unit a round and wraps.

In the paper the window of round j starts at unit j mod n; the released code rolls the other way, so it starts at -j
mod n. `step` = -1 is the code, 1 the paper; the two are mirror images. ceil(r·n) units as in the code. There, norms,
biases and the classifier are weighted by a counter that grows while clients are added, so by their order; here, as in
the paper, every coordinate is a mean.
"""

from __future__ import annotations

from models.algebra.plans import Plan
from models.settings import Setting
from strategies.context import RoundContext
from strategies.methods.heterofl import HeteroFL
from strategies.tiers.tier import Tier


class FedRolex(HeteroFL):
    """Rolling windows.

    Options: `step` (-1): units by which the window moves each round; `label-rows` and `token-rows` as in
    HeteroFL.
    """

    OPTIONS = {
        **HeteroFL.OPTIONS,
        "step": Setting(
            -1, "units by which the window moves each round; −1 as in the authors' code, 1 as in the paper"
        ),
    }
    PER_WIDTH = False

    def window(self, context: RoundContext, tier: Tier) -> Plan:
        """The window of a 1-based round; the first starts at unit 0."""
        return Plan(tier.rate, shift=int(self.options["step"]) * (context.round_number - 1))
