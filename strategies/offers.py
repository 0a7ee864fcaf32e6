"""What the tiers would ask of a device: parts to be measured, steps of a round, coordinates on the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from models.network import NetworkSpec, layout, submodel
from models.plans import Plan
from protocol import Objective
from protocol.profile import Offered, ProfileRequest
from strategies.measured import Demand, Rule
from strategies.settings import Settings
from strategies.tiers import Tier


class Offers:
    """What every tier trains in round 1, widest first.

    Args:
        network: the global network.
        settings: of the strategy.
        kept_plan: the part that a tier keeps in a round.
        objective: what a tier optimises in a round.
    """

    def __init__(
        self, network: NetworkSpec, settings: Settings, kept_plan: Callable[[Tier, int], Plan],
        objective: Callable[[Tier, int], Objective],
    ) -> None:  # fmt: skip
        self._network, self._settings = network, settings
        self.names = [tier.name for tier in settings.tiers]
        self.plans = [kept_plan(tier, 1) for tier in settings.tiers]
        works = [replace(settings.work_of(tier), measure_squares=False) for tier in settings.tiers]
        self._offered = [
            Offered(plan, objective(tier, 1), work)
            for tier, plan, work in zip(settings.tiers, self.plans, works, strict=True)
        ]
        state = layout(network).parameters
        held = [submodel(network, plan).numel for plan in self.plans]
        self._moved = [float(numel + (numel if settings.slice_at == "server" else state)) for numel in held]

    @property
    def rule(self) -> Rule:
        """What tiers are given by."""
        return Rule(self._settings.deadline, self._settings.tier_margin, self._settings.tier_patience)

    def request(self) -> ProfileRequest:
        """What devices are to measure."""
        s = self._settings
        return ProfileRequest(
            self._network, dict(zip(self.names, self._offered, strict=True)), s.schedule.optimiser(1),
            whole=s.slice_at == "client", everyone=s.tier_assignment == "measured",
        )  # fmt: skip

    def steps(self, examples: int) -> Sequence[float]:
        """Training steps of a round in each tier, of a device with so many examples."""
        works = [offered.work for offered in self._offered]
        return [
            float(work.local_steps or work.local_epochs * max(1, -(-examples // work.batch_size))) for work in works
        ]

    def demand(self, figures: Mapping[str, float], examples: int) -> Demand:
        """What the tiers ask of a device with these figures and so many examples."""
        return Demand.of(figures, self.names, self.steps(examples), self._moved)
