"""InclusiveFL (Liu et al., KDD 2022): a device holds the bottom layers of one deep network.

The server averages every layer over those who hold it, by examples (§3.2). A size's classifier is its own or shared by
all; with private last layers each size also has its own copy of its deepest layer. *Momentum distillation* (§3.3) lets
the deeper layers of the larger models teach the last layer of a smaller one:

    Δ_last(small) ← (1 - β)·Δ_last(small) + β·m        m = mean over the layers above it of the larger models' updates

The paper mixes gradients, one server step a round; here devices take local steps, so it mixes the round's averaged
updates, of the same round. β = 0 is the plain average of layer prefixes. (The released code never uses its stored
momentum; see docs/architecture.md.) Layers of one shape can be mixed: a transformer, not a network whose stages differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from models.network import NetworkSpec, completed, layout
from models.plans import Plan
from protocol import Scalar
from strategies.base import PartialStrategy
from strategies.fleet import Node
from strategies.method import Preferences
from strategies.settings import Settings
from strategies.tiers import Tier, depths_of


class InclusiveFL(PartialStrategy):
    """Bottom layers; momentum distillation into the last layer of every smaller size.

    Options: `momentum` (0.2): β; `private-classifier` (True), `private-last-layer` (True).
    """

    OPTIONS: ClassVar[Mapping[str, Scalar]] = {"momentum": 0.2, "private-classifier": True, "private-last-layer": True}
    RANGES = {"momentum": (0, 1)}
    PREFERENCES = Preferences(norm="group", exits="plain")
    BY_EXAMPLES = True
    PER_WIDTH = True
    WIDTHS = False

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """Exits and private copies as the options say."""
        if network.variants:
            return network
        own_exit = bool(options["private-classifier"])
        staged = completed(replace(network, exits="plain" if own_exit else "shared"))
        if not options["private-last-layer"]:
            return staged
        depths = sorted(set(depths_of(settings.tiers, layout(staged).exits).values()) | {layout(staged).depth})
        variants = tuple(Plan(depth=depth, own_exit=own_exit).to_json() for depth in depths)
        return replace(staged, private=("stage",), variants=variants)

    def plan(self, node: Node, tier: Tier, round_number: int) -> Plan:
        """The bottom layers and the size's own exit."""
        del node
        return self.kept_plan(tier, round_number)

    def kept_plan(self, tier: Tier, round_number: int) -> Plan:
        """Likewise."""
        del round_number
        return self._size(self.depth_of(tier))

    def can_hold(self, tier: Tier, wanted: Tier) -> bool:
        """Tiers differ in depth only."""
        return self.depth_of(tier) >= self.depth_of(wanted)

    def _size(self, depth: int) -> Plan:
        return Plan(depth=depth, own_exit=bool(self.options["private-classifier"]))

    def refine(self, before: Mapping[str, Tensor]) -> None:
        """Momentum distillation; all sizes learn from the updates as they were averaged."""
        beta, deepest = float(self.options["momentum"]), self.layout.depth
        if not beta:
            return
        covered = self.average.coverage()
        stages = {stage: self._stage(self._size(deepest), stage) for stage in range(1, deepest + 1)}
        moved = {
            stage: [self.state[name] - before[name] for name in names]
            for stage, names in stages.items()
            if any(covered[name].any() for name in names)
        }
        for depth in sorted({self.depth_of(tier) for tier in self.settings.tiers} - {deepest}):
            own = self._stage(self._size(depth), depth)
            teachers = [updates for stage, updates in moved.items() if stage > depth and self._alike(updates, own)]
            if not teachers or not any(covered[name].any() for name in own):
                continue
            for position, name in enumerate(own):
                mean = torch.stack([updates[position] for updates in teachers]).mean(0)
                self.state[name].copy_(before[name] + (1 - beta) * (self.state[name] - before[name]) + beta * mean)

    def _stage(self, size: Plan, stage: int) -> list[str]:
        """Where the tensors of a stage stand in the state, for one size, in the network's order."""
        alone = layout(replace(self.network, private=(), variants=())).tensors
        return [block.source for name, block in self.part(size).items() if alone[name].stage == stage]

    def _alike(self, updates: list[Tensor], names: list[str]) -> bool:
        return [update.shape for update in updates] == [self.state[name].shape for name in names]
