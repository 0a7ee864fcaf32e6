"""DepthFL (Kim et al., ICLR 2023) and FedDyn (Acar et al., ICLR 2021).

- `DepthFL` (§3.1, eq. 1-2): a device of depth d holds the stem, stages 1..d and exits 1..d, each exit behind a
  bottleneck. All exits learn by cross entropy and from each other, with the weight w(t) = exp(-5·(1 - min(t, T)/T)²),
  t = round - 1, which is small at first and 1 from round T on. The server takes the plain mean per tensor over those
  who sent it, and FedDyn's correction on top. T is 300 in the paper; shorter runs never reach w = 1, so it is a
  setting.
- `ExclusiveDepth` (Table 2): the same network cut at one depth for everybody; devices that cannot carry it do not take
  part.
- `FedDyn`: the full network for everybody, plain mean, FedDyn's correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import ClassVar

from models.algebra.plans import Plan
from models.errors import SettingError
from models.settings import Setting, between
from protocol import Objective, Scalar
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences
from strategies.methods.fedavg import FedAvg
from strategies.tiers.tier import Tier


class DepthFL(FlowerStrategy):
    """The stages and exits up to a tier's depth; exits teach each other.

    Options: `distillation` (True), `distillation-rounds` (300): T above.

    Equation: a device of depth d minimises Σᵢ CE(zᵢ) + w(t)/(d - 1)·Σᵢ Σⱼ KL(zⱼ ‖ zᵢ) over exits i and j ≠ i up to
    d; a tensor becomes the plain mean over those who sent it, then FedDyn's correction.

    Traps: the paper's headline is the mean of the logits of all exits; tiers are scored by their deepest exit here,
    and by that mean as `ensemble`. A depth is no width: the same letter is another cost than in a row of HeteroFL.
    """

    OPTIONS: ClassVar[Mapping[str, Setting]] = {
        "distillation": Setting(
            True, "exits teach each other, with the weight exp(−5·(1 − min(t, T)/T)²) in round t + 1"
        ),
        "distillation-rounds": Setting(300, "T; a run much shorter than T hardly distils", between(1, 10**9)),
    }
    PREFERENCES = Preferences(norm="batch-per-width", exits=("bottleneck", "plain", "convolutional"), dynamic_alpha=0.1)
    PER_WIDTH = True
    WIDTHS = False
    ONE_RATE = "are depths"

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """Everything up to the tier's depth."""
        del node
        return self.kept_plan(context, tier)

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """Everything up to the tier's depth, too: what was trained is what is used."""
        return Plan(depth=context.depth_of(tier))

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """Tiers differ in depth only."""
        return context.depth_of(tier) >= context.depth_of(wanted)

    def objective(self, context: RoundContext, tier: Tier) -> Objective:
        """Deep supervision with mutual distillation of this round's weight."""
        del tier
        weight = self.distillation_weight(context.round_number)
        settings: dict[str, Scalar] = {"distillation": "mutual", "weight": weight}
        return Objective("deep-supervision", settings if self.options["distillation"] else {})

    def distillation_weight(self, round_number: int) -> float:
        """w(t) of a 1-based round."""
        rounds = int(self.options["distillation-rounds"])
        return exp(-5 * (1 - min(round_number - 1, rounds) / rounds) ** 2)


class ExclusiveDepth(DepthFL):
    """One depth for everybody who can carry it.

    Options: `depth` (0: the deepest that a tier carries), and DepthFL's.

    Equation: DepthFL's, over the devices whose depth is at least d, all at depth d.

    Traps: who cannot carry the depth takes no part; the least depth lets everybody in and may beat the largest.
    """

    OPTIONS = {
        **DepthFL.OPTIONS,
        "depth": Setting(
            0, "the one depth that is trained, by those who can carry it; 0: the deepest", between(0, 10**6)
        ),
    }

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """The same for all."""
        del tier
        return Plan(depth=self._only(context))

    def eligible(self, context: RoundContext, tier: Tier) -> bool:
        """Whether the tier can carry it."""
        return context.depth_of(tier) >= self._only(context)

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """Whether the tier can carry it; there is but one part."""
        del wanted
        return self.eligible(context, tier)

    def _only(self, context: RoundContext) -> int:
        wanted, deepest = int(self.options["depth"]), max(context.depth_of(tier) for tier in context.settings.tiers)
        if wanted > deepest:
            allowed = f"1 to {deepest}, the deepest that a tier carries, or 0 for that one"
            raise SettingError("depthfl-exclusive-depth", wanted, allowed)
        return wanted or deepest


class FedDyn(FedAvg):
    """Everything for everyone, unweighted, corrected for drift. Its strength is `dynamic-alpha`.

    Equation: a device minimises F(w) - ⟨gₖ, w⟩ + α/2·‖w - w_t‖² and then gₖ ← gₖ - α·Δₖ; the server h ← h - α/N·Σ
    Δₖ and w ← mean θₖ - h/α.

    Traps: every device keeps gₖ between rounds (`client-state`). α times the learning rate above 1 diverges.
    """

    BY_EXAMPLES = False
    PREFERENCES = Preferences(dynamic_alpha=0.01)
