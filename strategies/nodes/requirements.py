"""What the tiers would ask of a device: parts to be measured, steps of a round, coordinates on the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import torch

from models.algebra.plans import Plan
from models.networks.build import layout, submodel
from models.networks.spec import NetworkSpec
from models.randomness import generator, torch_generator
from protocol import Measurements, Objective
from protocol.codecs import NOTHING, codec_of
from protocol.codecs.settings import CodecSettings
from protocol.profile import ProfileRequest, TierWork
from strategies.exchange.assignment import planned_steps
from strategies.settings import Settings
from strategies.tiers.adaptive import Demand, Rule
from strategies.tiers.tier import Tier


class TierRequirements:
    """What every tier trains in round 1, widest first.

    Args:
        network: the global network.
        settings: of the run.
        kept_plan: the part that a tier keeps in round 1.
        objective: what a tier optimises then.
    """

    def __init__(
        self,
        network: NetworkSpec,
        settings: Settings,
        kept_plan: Callable[[Tier], Plan],
        objective: Callable[[Tier], Objective],
    ) -> None:
        self._network, self._settings = network, settings
        self.names = [tier.name for tier in settings.tiers]
        self.plans = [kept_plan(tier) for tier in settings.tiers]
        works = [replace(settings.work_of(tier), measure=Measurements()) for tier in settings.tiers]
        self._tier_works = [
            TierWork(plan, objective(tier), work)
            for tier, plan, work in zip(settings.tiers, self.plans, works, strict=True)
        ]
        state = layout(network).parameters
        self._parts = [submodel(network, plan) for plan in self.plans]
        held = [part.numel for part in self._parts]
        self._coordinates = [float(numel + (numel if settings.slice_at == "server" else state)) for numel in held]

    @property
    def rule(self) -> Rule:
        """What tiers are given by."""
        return Rule(self._settings.deadline, self._settings.tier_margin, self._settings.tier_patience)

    def request(self) -> ProfileRequest:
        """What devices are to measure."""
        s = self._settings
        return ProfileRequest(
            network=self._network,
            tiers=dict(zip(self.names, self._tier_works, strict=True)),
            optimiser=s.schedule.optimiser(1),
            whole=s.slice_at == "client",
            everyone=s.tier_assignment == "measured",
        )

    def steps(self, examples: int) -> Sequence[float]:
        """Training steps of a round in each tier, of a device with so many examples."""
        return [float(planned_steps(one.work, max(1, examples))) for one in self._tier_works]

    def demand(self, figures: Mapping[str, float], examples: int, transfer_seconds: Sequence[float] = ()) -> Demand:
        """What the tiers ask of a device with these figures and so many examples.

        Args:
            figures: what it measured, by the names in `protocol.profile`.
            examples: how many it has.
            transfer_seconds: of a round's arrays in each tier, if the bandwidth is known.
        """
        return replace(
            Demand.of(figures, self.names, self.steps(examples), self._coordinates), transfer_seconds=transfer_seconds
        )

    def traffic(self) -> list[tuple[int, int]]:
        """Bytes of a round's arrays in each tier, down and up: those of an encoded difference that is made up."""
        s, whole = self._settings, [prod(tensor.shape) for tensor in layout(self._network).tensors.values()]
        parts = [part.lengths for part in self._parts]
        if s.codec_down.name != "float32":
            down = [_encoded(s.codec_down, whole)] * len(parts)
        else:
            down = [_encoded(s.codec_down, part if s.slice_at == "server" else whole) for part in parts]
        return list(zip(down, (_encoded(s.codec, part) for part in parts), strict=True))


def _encoded(settings: CodecSettings, sizes: Sequence[int]) -> int:
    """Bytes of an encoded difference of tensors of these sizes."""
    flat = torch.empty(sum(sizes)).normal_(generator=torch_generator(0, 0, "server", "profile"))
    return len(codec_of(settings).encode(flat, sizes, generator(0, 0, "server", "profile"), NOTHING).data)
