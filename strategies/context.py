"""What the hooks of a method are told of a round: one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from models.algebra.axes import Layout
from models.networks.spec import NetworkSpec
from protocol import Optimiser
from strategies.settings import Settings
from strategies.tiers.tier import Tier, depths_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """A round of a run.

    Attributes:
        round_number: 1-based.
        settings: of the run; seed, tiers and schedule among them.
        network: the global network as the method needs it, complete.
        layout: declaration of its whole state.
        saved_round: newest round that a checkpoint can bring back.
        optimiser: of the round, by the run's schedule.
    """

    round_number: int
    settings: Settings
    network: NetworkSpec
    layout: Layout
    saved_round: int = 0
    optimiser: Optimiser = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimiser", self.settings.schedule.optimiser(self.round_number))

    def at(self, round_number: int) -> RoundContext:
        """The same in another round."""
        return self if round_number == self.round_number else replace(self, round_number=round_number)

    def depth_of(self, tier: Tier) -> int:
        """Number of stages that a tier can carry; for the network as a whole, as many as the deepest tier."""
        depths = depths_of(self.settings.tiers, self.layout.exits)
        return depths.get(tier.name, max(depths.values()))
