"""ScaleFL (Ilhan et al., CVPR 2023): width and depth together.

A device holds the leading ceil(r·n) units of the stages up to its depth, with an exit after each (§3.2): three 3 x 3
convolutions before the classifier, as the authors' ResNets have them, where features are images. Exit i of d weighs
i/Σj; from a share of the rounds on every exit but the last learns from the last (§3.3, eq. 3: T = 3). The server
averages every coordinate over those who trained it. A tier's rate and depth are settings ("b:3/4@3"); the paper's
levels have rates of 0.7 to 1.

The released code (git-disl/scale-fl, commit c2084e4) takes the divergence as a mean over batch *and classes*, lets the
gradient pass through the teacher, and begins one round later; `variant` = "code" does the same, "paper" is eq. 3,
in which the same γ is as many times stronger as there are classes. Its widths are rounded down (11 of 16 units at 0.7,
here 12), and its README's commands for CIFAR and ImageNet leave distillation off.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.algebra.plans import Plan
from models.algebra.rates import Rate, joined
from models.settings import Names, Setting, between
from protocol import Objective, Scalar
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences
from strategies.tiers.tier import Tier


class ScaleFL(FlowerStrategy):
    """Leading widths up to a depth.

    Options: `distillation` (0.05): γ, 0 is off; `temperature` (3.0); `distillation-after` (0.25): the share of
    the run's rounds (`Schedule.rounds`) that goes by without it first, in the paper a quarter; `variant` ("code"): in
    whose scale γ is.

    Equation: a device of d exits minimises Σᵢ i·(CE(zᵢ) + γ·T²·KL(z_d ‖ zᵢ)) / Σᵢ i, the last exit without the
    second term; θⱼ becomes the plain mean over those who trained it.

    Traps: the same γ is as many times stronger in the `paper` variant as there are classes. The paper's rates are
    0.7 to 1: rates as small as HeteroFL's leave little of a shallow tier.
    """

    OPTIONS = {
        "distillation": Setting(0.05, "γ: weight of the last exit's teaching; 0 is off", between(0, 1e3)),
        "temperature": Setting(3.0, "of that teaching", between(1e-3, 1e3)),
        "variant": Setting(
            "code",
            "whose teaching: `code` averages the divergence over batch and classes, lets the gradient through the"
            " teacher and begins one round later; `paper` averages over the batch, so the same γ is as many times"
            " stronger as there are classes",
            Names(("paper", "code")),
        ),
        "distillation-after": Setting(
            0.25,
            "the share of `num-server-rounds` that goes by before it begins; 1 is never. Between 0 and 1, a run cannot"
            " be resumed with more rounds",
            between(0, 1),
        ),
    }
    PREFERENCES = Preferences(norm="static-batch", scaler=True, exits=("convolutional", "plain", "bottleneck"))
    PER_WIDTH = True

    @classmethod
    def by_length(cls, options: Mapping[str, Scalar]) -> bool:
        """Distillation begins after a share of the run."""
        return bool(options["distillation"]) and 0 < float(options["distillation-after"]) < 1

    def global_rate(self, context: RoundContext) -> Rate:
        """The largest rate among the deepest tiers, group by group: somebody trains the last exit as wide as that."""
        depths = {tier: context.depth_of(tier) for tier in context.settings.tiers}
        return joined(tier.rate for tier, depth in depths.items() if depth == max(depths.values()))

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
        passed, code = context.round_number - 1, self.options["variant"] == "code"
        without = float(self.options["distillation-after"]) * context.settings.schedule.rounds
        if passed > without or (passed == without and not code):
            settings |= {
                "distillation": "last-elementwise" if code else "last",
                "weight": self.options["distillation"],
                "temperature": self.options["temperature"],
            }
        return Objective("deep-supervision", settings)
