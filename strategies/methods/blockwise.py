"""Block-wise training (ProFL: Wu, Li, Xu, KDD 2025, arXiv 2404.13349): one stage after the other on frozen ones.

Of the two phases of "Breaking the Memory Wall for Heterogeneous Federated Learning via Progressive Training" this is
the second one, *model growing*: stage t is trained with an output module after it while stages 1 to t-1 only compute.
Nothing is kept for a backward pass through them, so that a device needs the memory of one stage at a time, and only the
trained stage is sent back.

Where it differs: the first phase, *model shrinking*, which trains the blocks from the last to the first to draw up
output modules and first weights, is left out; the output module of a stage is its exit (pooling and a linear layer),
the last one's the network's own head. The paper goes on to the next block when a block's effective movement has
levelled off; here every stage has its share of the run's rounds, the last one what is left over.

Every device trains the same part, so tiers do not differ; who cannot hold the largest step cannot take part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.spec import NetworkSpec
from models.settings import Setting, between
from protocol import Scalar
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences
from strategies.settings import Settings
from strategies.tiers.tier import Tier


class Blockwise(FlowerStrategy):
    """The stage of the round, on those before it.

    Options: `rounds` (0): rounds of every stage; 0 divides the run's evenly.

    Equation: in stage t of the run devices minimise CE(exitₜ ∘ fₜ ∘ … ∘ f₁) over fₜ and exitₜ, with f₁ … fₜ₋₁
    frozen; both become the mean by examples.

    Traps: tiers do not differ, and a stage has its share of the rounds once: what an early stage has learnt badly
    stays.
    """

    OPTIONS: ClassVar[Mapping[str, Setting]] = {
        "rounds": Setting(0, "rounds of every stage but the last; 0 divides the run's evenly", between(0, 10**6)),
    }
    PREFERENCES = Preferences(exits=("plain",))
    BY_EXAMPLES = True
    WIDTHS = False

    @classmethod
    def by_length(cls, options: Mapping[str, Scalar]) -> bool:
        """Where the rounds of a stage are a share of the run's."""
        return not options["rounds"]

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """Unchanged.

        Raises:
            SettingError: what is frozen would not come to the devices.
        """
        if network.adapter is not None:
            raise SettingError("adapter", "on", f'"" for {cls.__name__}, which freezes stages itself')
        if settings.codec_down.name != "float32":
            raise SettingError("codec-down", settings.codec_down.name, f"float32 for {cls.__name__}")
        return super().adapted(network, settings, options)

    def stage(self, context: RoundContext) -> int:
        """The stage that a round trains, 1-based."""
        count, run = len(context.layout.exits), context.settings.schedule.rounds
        rounds = int(self.options["rounds"]) or max(1, run // count)
        return min(count, 1 + (context.round_number - 1) // rounds)

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The stage and its exit, on frozen ones."""
        del node, tier
        stage = self.stage(context)
        return Plan(depth=stage, own_exit=True, frozen=stage - 1)

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """Everything up to the stage, with its exit: what can predict by now."""
        del tier
        return Plan(depth=self.stage(context), own_exit=True)

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """There is but one part."""
        del context, tier, wanted
        return True

    def doubts(self, context: RoundContext) -> list[str]:
        """A run that ends before its last stage."""
        count, run = len(context.layout.exits), context.settings.schedule.rounds
        reached = self.stage(context.at(run))
        return [f"of {count} stages {reached} are trained in {run} rounds"] if reached < count else []
