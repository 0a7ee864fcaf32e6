"""FedAvgM (Hsu, Qi, Brown 2019, arXiv 1909.06335, §4.3): FedAvg with momentum on the server."""

from __future__ import annotations

from torch import Tensor

from models.settings import Setting, between
from strategies.method import Tensors
from strategies.methods.fedavg import FedAvg


class FedAvgM(FedAvg):
    """Everything for everyone, and a server with momentum.

    Equation: v ← β·v + Δ and w ← w + η·v, with Δ = Σ nₖ·Δₖ / Σ nₖ. β = 0 and η = 1 is FedAvg, bit for bit.

    Traps: in the long run a difference counts 1/(1 - β) times, ten times at β = 0.9; lower η where it swings.
    """

    OPTIONS = {
        "server-momentum": Setting(0.9, "β, the share of the last step that is in the next one", between(0, 0.9999)),
        "server-learning-rate": Setting(1.0, "η, by which a step is multiplied", between(1e-6, 10)),
    }
    SLOTS = ("velocity",)

    def step(self, mean: Tensor, slots: Tensors) -> tuple[Tensor, Tensors]:
        """The momentum in place of the mean difference."""
        velocity = float(self.options["server-momentum"]) * slots["velocity"] + mean
        return float(self.options["server-learning-rate"]) * velocity, {"velocity": velocity}
