"""FedProx (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith; MLSys 2020): FedAvg with clients held near what they were sent.

The gradient of its term is added by the optimiser beside the weight decay, after clipping, as in the authors' code.
μ = 0 is FedAvg. Work that differs by device, the paper's other point, is `tier-steps`.
"""

from __future__ import annotations

from dataclasses import replace

from models.settings import Setting, between
from protocol import Optimiser
from strategies.context import RoundContext
from strategies.methods.fedavg import FedAvg
from strategies.tiers.tier import Tier


class FedProx(FedAvg):
    """Everything for everyone, near the global state. Option: `mu` (0.01): μ.

    Equation: a device minimises F(w) + μ/2·‖w - w_t‖² (eq. 2) over what it trains; the server does as FedAvg does.

    Traps: the term's gradient comes after clipping, so `clip-norm` does not bound it.
    """

    OPTIONS = {"mu": Setting(0.01, "μ of the proximal term μ/2·‖w − w_t‖²; 0 is FedAvg", between(0, 1e3))}

    def optimiser(self, context: RoundContext, tier: Tier) -> Optimiser:
        """The run's, with the proximal term."""
        return replace(super().optimiser(context, tier), proximal=float(self.options["mu"]))
