"""InclusiveFL (Liu et al., KDD 2022): a device holds the bottom layers of one deep network.

The server averages every layer over those who hold it, by examples (§3.2). A size's classifier is its own or shared by
all; with private last layers each size also has its own copy of its deepest layer. *Momentum distillation* (§3.3) lets
the deeper layers of the largest model teach the last layer of a smaller one, see
`strategies.aggregation.momentum_distillation`; its strength
β = 0 is the plain average of layer prefixes. (The released code never uses its stored momentum; see
docs/architecture.md.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar

from models.algebra.average import PartialAverage
from models.algebra.plans import Plan
from models.errors import SettingError
from models.networks.build import layout
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.settings import Setting, Text
from protocol import Scalar
from strategies.aggregation.momentum_distillation import Momentum
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.flower_adapter import FlowerStrategy
from strategies.method import Preferences, Tensors
from strategies.settings import Settings
from strategies.tiers.tier import Tier, depths_of


class InclusiveFL(FlowerStrategy):
    """Bottom layers; momentum distillation into the last layer of every smaller size.

    Options: `momentum` ("auto"): β, which is 0.2 where the last layer of some smaller size has a layer of its shape
    above it, else 0; `private-classifier` (True), `private-last-layer` (True).

    Equation: a layer becomes Σ nₖ·θₖ / Σ nₖ over the sizes that hold it; of a smaller size's last layer Δ ← (1 -
    β)·Δ + β·mean of the largest size's Δ in the layers above it.

    Traps: only layers of one shape can teach: in networks that get wider β is 0, and `auto` says so. Depths need
    `tiers` such as "a:1@4, b:1@2".
    """

    OPTIONS: ClassVar[Mapping[str, Setting]] = {
        "momentum": Setting(
            "auto",
            "β: how much of a small model's last layer's update comes from the layers above it in the largest model."
            " Only layers of one shape can teach: `auto` is 0.2 where there are such (`transformer`, `vit`, an `mlp` of"
            " equal layers), else 0; anything above 0 is refused where it could do nothing",
            Text('"auto", or 0 to 1 in quotes, such as "0.2"'),
        ),
        "private-classifier": Setting(True, "every size has a classifier of its own"),
        "private-last-layer": Setting(True, "every size has a last layer of its own"),
    }
    PREFERENCES = Preferences(norm="group", exits=("plain", "bottleneck", "convolutional"))
    BY_EXAMPLES = True
    PER_WIDTH = True
    WIDTHS = False
    ONE_RATE = "are depths"
    REFINES = True

    @classmethod
    def exits(cls, options: Mapping[str, Scalar]) -> tuple[str, ...]:
        """One of its own for every size, or one for all."""
        return cls.PREFERENCES.exits if options["private-classifier"] else ("shared",)

    @classmethod
    def fitted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """As every method's.

        Raises:
            SettingError: also where one classifier for all is asked of a network whose stages cannot share it.
        """
        try:
            return super().fitted(network, settings, options)
        except SettingError as error:
            if error.key != "exits" or network.exits != "auto":
                raise
            allowed = f"true for {network.name!r}, whose stages differ in width"
            raise SettingError("private-classifier", options["private-classifier"], allowed) from None

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """Private copies as the options say."""
        if network.variants or not options["private-last-layer"]:
            return network
        whole, own_exit = layout(completed(network)), bool(options["private-classifier"])
        depths = sorted(set(depths_of(settings.tiers, whole.exits).values()) | {whole.depth})
        variants = tuple(Plan(depth=depth, own_exit=own_exit).to_json() for depth in depths)
        return replace(network, private=("stage",), variants=variants)

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """The bottom layers and the size's own exit."""
        del node
        return self.kept_plan(context, tier)

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """What the size trains."""
        return self._size(context.depth_of(tier))

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """Tiers differ in depth only."""
        return context.depth_of(tier) >= context.depth_of(wanted)

    def _size(self, depth: int) -> Plan:
        return Plan(depth=depth, own_exit=bool(self.options["private-classifier"]))

    def momentum(self, context: RoundContext) -> float:
        """β."""
        return self._teaching(context).strength(self.options["momentum"])

    def refine(
        self, context: RoundContext, before: Tensors, after: Tensors, average: PartialAverage, remembered: Tensors
    ) -> Tensors:
        """Momentum distillation."""
        if beta := self.momentum(context):
            self._teaching(context).mix(after, before, average.coverage(), beta)
        return remembered

    def check(self, context: RoundContext) -> None:
        """Find a β that could never act, or is no share."""
        self.momentum(context)

    def doubts(self, context: RoundContext) -> list[str]:
        """Momentum distillation that is off by itself."""
        if self.options["momentum"] != "auto" or self.momentum(context):
            return []
        return ["no momentum distillation: above no smaller size's last layer there is one of its shape"]

    def _teaching(self, context: RoundContext) -> Momentum:
        sizes = {depth: self._size(depth) for depth in map(context.depth_of, context.settings.tiers)}
        return teaching(context.network, tuple(sizes.items()))


@lru_cache(maxsize=4)
def teaching(network: NetworkSpec, sizes: tuple[tuple[int, Plan], ...]) -> Momentum:
    """Who teaches whom; found once for a network and its sizes."""
    return Momentum(network, dict(sizes))
