"""NeFL (Kang, Cha, Shin, Lee, Kang; arXiv 2308.07761, IEEE TMC 2025): nested submodels, scaled in width and depth.

A submodel is a leading width, some residual blocks left out, or both. Every block is x + s·F(x) with a learnt step size
s. Step sizes and norms (affine part and running statistics) are *inconsistent* parameters: every submodel has its own,
averaged among the devices that trained that submodel. All others are averaged ring by ring over those who held them,
unweighted. What nobody trained keeps its value; in the released code that holds for the rings of a block that somebody
trained, while a block that nobody did is set to zero.

A tier's rate is the share of the *parameters*. The paper lists the kept blocks of a few ResNets; here a rule makes
them, after those lists (`models.networks.scaling`; "both" has about the square root of the rate left in width and in
depth each). Networks without residual blocks, such as `mlp` and `cnn`, are scaled in width whatever "both" says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

from models.algebra.plans import Plan
from models.algebra.rates import single
from models.networks.complete import completed
from models.networks.scaling import MODES, scaled_plan
from models.networks.spec import NetworkSpec
from models.randomness import generator
from models.settings import Names, Setting, between
from protocol import Scalar
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences
from strategies.settings import Settings
from strategies.tiers.tier import Tier


class NeFL(FlowerStrategy):
    """Nested widths and depths with norms and step sizes of their own.

    Options: `mode` ("both"): what tiers differ in, one of `models.networks.scaling.MODES`; `spread` (0): a device
    trains, each
    round anew, the submodel of a tier at most so many tiers from its own, larger ones too (the authors' code has 2);
    `step-sizes` (True): whether blocks have them.

    Equation: a residual block is x + s·F(x). θⱼ ← Σ θₖⱼ / |Hⱼ| over its holders; norms and step sizes s of a
    submodel are averaged over those alone who trained that submodel.

    Traps: rates are shares of *parameters*, those of HeteroFL of units: 1/2 there is about 1/4 here.
    """

    OPTIONS: ClassVar[Mapping[str, Setting]] = {
        "mode": Setting(
            "both",
            "what tiers differ in: `width`, `depth` (residual blocks left out), `both`. Their rates are shares of the"
            " *parameters* (`fiarse`'s are, too), not of the units",
            Names(MODES),
        ),
        "spread": Setting(
            0,
            "a device trains the submodel of a tier at most so many places from its own, drawn each round (2 in the"
            " authors' code)",
            between(0, 100),
        ),
        "step-sizes": Setting(True, "whether residual blocks have learnt step sizes"),
    }
    PREFERENCES = Preferences(norm="batch-per-width")
    PER_WIDTH = True
    ONE_RATE = "are shares of all parameters"

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """Step sizes, and copies of them and of the norms for the submodel of every tier.

        Raises:
            SettingError: unknown mode, or a tier that cannot be reached by leaving blocks out.
        """
        mode, steps = str(options["mode"]), bool(options["step-sizes"])
        if network.variants:
            return network
        whole = completed(network)
        if whole.norm == "batch-per-width":
            whole = replace(whole, rates=())  # every submodel has its own statistics anyway
        whole = replace(whole, step_sizes=steps)
        rates = sorted({single(tier.rate) for tier in settings.tiers}, reverse=True)
        variants = dict.fromkeys(scaled_plan(whole, rate, mode).to_json() for rate in rates)
        return replace(whole, private=("norm", "step"), variants=tuple(variants))

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The submodel of the tier, or of one near it."""
        tiers, spread = context.settings.tiers, int(self.options["spread"])
        if spread:
            own = tiers.index(tier)
            draws = generator(context.settings.seed, context.round_number, node.id, "submodel")
            tier = tiers[draws.integers(max(0, own - spread), min(len(tiers), own + spread + 1))]
        return self.kept_plan(context, tier)

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """The submodel of the tier; of the largest one for the network as a whole, whose norms are trained."""
        rate = single(tier.rate) if tier in context.settings.tiers else self.global_rate(context)
        return scaled_plan(replace(context.network, private=(), variants=()), rate, str(self.options["mode"]))

    def global_rate(self, context: RoundContext) -> Fraction:
        """Rate of the largest tier."""
        return max(single(tier.rate) for tier in context.settings.tiers)
