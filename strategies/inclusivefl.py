"""InclusiveFL (Liu et al., KDD 2022): a device holds the bottom layers of one deep network.

The server averages every layer over those who hold it, by examples (§3.2). A size's classifier is its own or shared by
all; with private last layers each size also has its own copy of its deepest layer. *Momentum distillation* (§3.3) lets
the deeper layers of the larger models teach the last layer of a smaller one:

    Δ_last(small) ← (1 - β)·Δ_last(small) + β·m        m = mean over the layers above it of the larger models' updates

The paper mixes gradients, one server step a round; here devices take local steps, so it mixes the round's averaged
updates, of the same round. β = 0 is the plain average of layer prefixes. (The released code never uses its stored
momentum; see docs/architecture.md.) Only layers of one shape can be mixed: those of a transformer, not the stages of a
network that get wider. The larger model is the largest of the fleet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from logging import INFO
from typing import Any, ClassVar

import torch
from flwr.common import log
from torch import Tensor

from models.errors import SettingError
from models.network import NetworkSpec, completed, layout
from models.plans import Plan
from protocol import Scalar
from strategies.base import PartialStrategy
from strategies.fleet import Node
from strategies.method import Preferences
from strategies.settings import Settings
from strategies.tiers import Tier, depths_of

AUTO = 0.2  # the paper's β


class InclusiveFL(PartialStrategy):
    """Bottom layers; momentum distillation into the last layer of every smaller size.

    Options: `momentum` ("auto"): β, which is 0.2 where the last layer of some smaller size has a layer of its shape
    above it, else 0; `private-classifier` (True), `private-last-layer` (True).
    """

    OPTIONS: ClassVar[Mapping[str, Scalar]] = {
        "momentum": "auto", "private-classifier": True, "private-last-layer": True,
    }  # fmt: skip
    PREFERENCES = Preferences(norm="group", exits=("plain", "bottleneck"))
    BY_EXAMPLES = True
    PER_WIDTH = True
    WIDTHS = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sizes = sorted({self.depth_of(tier) for tier in self.settings.tiers})
        self._teachers = {depth: self._above(depth) for depth in self._sizes[:-1]}
        self.momentum = self._strength()

    @classmethod
    def exits(cls, options: Mapping[str, Scalar]) -> tuple[str, ...]:
        """One of its own for every size, or one for all."""
        return cls.PREFERENCES.exits if options["private-classifier"] else ("shared",)

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """Private copies as the options say."""
        if network.variants or not options["private-last-layer"]:
            return network
        whole, own_exit = layout(completed(network)), bool(options["private-classifier"])
        depths = sorted(set(depths_of(settings.tiers, whole.exits).values()) | {whole.depth})
        variants = tuple(Plan(depth=depth, own_exit=own_exit).to_json() for depth in depths)
        return replace(network, private=("stage",), variants=variants)

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
        beta = self.momentum
        if not beta:
            return
        covered = self.average.coverage()
        stages = {stage: self._stage(self._sizes[-1], stage) for stage in set().union(*self._teachers.values())}
        moved = {
            stage: [self.state[name] - before[name] for name in names]
            for stage, names in stages.items()
            if any(covered[name].any() for name in names)
        }
        for depth, above in self._teachers.items():
            own, teachers = self._stage(depth, depth), [moved[stage] for stage in above if stage in moved]
            if not teachers or not any(covered[name].any() for name in own):
                continue
            for position, name in enumerate(own):
                mean = torch.stack([updates[position] for updates in teachers]).mean(0)
                self.state[name].copy_(before[name] + (1 - beta) * (self.state[name] - before[name]) + beta * mean)

    def summary(self) -> None:
        """Log one line, and another where momentum distillation is off by itself."""
        super().summary()
        if self.options["momentum"] == "auto" and not self.momentum:
            log(INFO, "no momentum distillation: above no smaller size's last layer there is one of its shape")

    def _stage(self, depth: int, stage: int) -> list[str]:
        """Where the tensors of a stage stand in the state, for the size of a depth, in the network's order."""
        alone = layout(replace(self.network, private=(), variants=())).tensors
        return [block.source for name, block in self.part(self._size(depth)).items() if alone[name].stage == stage]

    def _above(self, depth: int) -> list[int]:
        """The stages of the largest size that can teach the last one of a smaller size: deeper ones of its shapes."""

        def shapes(size: int, stage: int) -> list[torch.Size]:
            return [self.state[name].shape for name in self._stage(size, stage)]

        largest = self._sizes[-1]
        return [s for s in range(depth + 1, largest + 1) if shapes(largest, s) == shapes(depth, depth)]

    def _strength(self) -> float:
        """Momentum distillation's β.

        Raises:
            SettingError: not a share, or one that could never act.
        """
        given, teaches = self.options["momentum"], any(self._teachers.values())
        if given == "auto":
            return AUTO if teaches else 0.0
        try:
            beta = float(given)
        except ValueError:
            beta = -1.0
        if not 0 <= beta <= 1:
            raise SettingError("momentum", given, '"auto", or 0 to 1 in quotes, such as "0.2"')
        if beta and not teaches:
            allowed = '"auto" or "0" here: above no smaller size\'s last layer there is one of its shape'
            raise SettingError("momentum", given, allowed)
        return beta
