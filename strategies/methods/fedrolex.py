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

    Equation: HeteroFL's mean, over windows: in round t a device of rate r holds of an axis of n units those at
    (s·(t - 1) + i) mod n for i = 0 … ⌈r·n⌉ - 1, s = `step`.

    Traps: no small network is ever trained as such, so what a small tier keeps may score no better than a guess. A
    window goes once round an axis of n units in n rounds, more than a short run has.
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
