"""What a method says: which part a node gets, what it optimises there, how its reply weighs, what becomes of the mean.

The round itself is in `strategies.round.runner`. A method is a subclass of `PartialStrategy` there that overrides
some of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from torch import Tensor

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from models.errors import SettingError
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.registry import with_exits
from models.networks.spec import NetworkSpec
from models.settings import Setting, read_options
from protocol import Objective, Scalar
from strategies.aggregation import Update, parameter_norm
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from strategies.flower_adapter import FlowerStrategy
from strategies.settings import Settings
from strategies.tiers.tier import Tier, depths_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What a method's network looks like unless the user says otherwise.

    Attributes:
        norm: one of `models.norms.layers.NORMS`.
        scaler: whether the Scaler is on.
        exits: those of `models.networks.spec.EXITS` that it trains; the first is what "auto" means.
        dynamic_alpha: strength of FedDyn's regulariser; 0 is none.
    """

    norm: str = "static-batch"
    scaler: bool = False
    exits: tuple[str, ...] = ("last",)
    dynamic_alpha: float = 0.0


class Method(FlowerStrategy):
    """The hooks of a method, with the defaults that most keep.

    Args:
        network: the global network; its defaults are filled in.
        settings: what does not depend on the method.
        options: the method's own settings by name; see `OPTIONS` of each method.

    Attributes:
        network: as the method needs it.
        options: all of them.
        layout: declaration of the network's whole state.
    """

    OPTIONS: ClassVar[Mapping[str, Setting]] = {}
    PREFERENCES: ClassVar[Preferences] = Preferences()
    BY_EXAMPLES: ClassVar[bool] = False
    PER_WIDTH: ClassVar[bool] = False  # whether a width always is the same units, as statistics per width need
    WIDTHS: ClassVar[bool] = True  # whether tiers differ in width
    PER_COORDINATE: ClassVar[bool] = False  # whether parts have element masks, so that every coordinate has holders

    def __init__(self, network: NetworkSpec, settings: Settings | None, options: Mapping[str, Scalar]) -> None:
        self.settings = settings or Settings()
        if unknown := set(options) - set(self.OPTIONS):
            raise TypeError(f"{type(self).__name__} has no option {sorted(unknown)}; it has {sorted(self.OPTIONS)}")
        self.options = read_options(self.OPTIONS, options)
        self.network = self.fitted(network, self.settings, self.options)
        self.layout = layout(self.network)

    @classmethod
    def fitted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """The network as the method needs it, complete; what has been fitted stays as it is.

        Raises:
            SettingError: exits that the method does not train, a tier deeper than the network, or as `adapted` says.
        """
        kinds = cls.exits(options)
        if network.exits == "auto":
            network = with_exits(network, kinds[0])
        if network.exits not in kinds:
            raise SettingError("exits", network.exits, f"one of {', '.join(('auto', *kinds))} for {cls.__name__}")
        depth = layout(completed(network)).depth
        for tier in settings.tiers:
            if (tier.depth or 1) > depth:
                allowed = f"depths of 1 to {depth} for {network.name!r} ({tier.name!r} has {tier.depth})"
                raise SettingError("tiers", ", ".join(map(str, settings.tiers)), allowed)
        return completed(cls.adapted(network, settings, options))

    @classmethod
    def exits(cls, options: Mapping[str, Scalar]) -> tuple[str, ...]:
        """The kinds of exits that it trains; the first is what "auto" means."""
        del options
        return cls.PREFERENCES.exits

    @classmethod
    def adapted(cls, network: NetworkSpec, settings: Settings, options: Mapping[str, Scalar]) -> NetworkSpec:
        """A network with the right exits, otherwise as the method needs it. Default: unchanged."""
        del settings, options
        return network

    def plan(self, node: Node, tier: Tier, round_number: int) -> Plan:
        """Which part a node gets in a round. Default: everything."""
        del node, tier, round_number
        return Plan()

    def kept_plan(self, tier: Tier, round_number: int) -> Plan:
        """Which part of the state after a round a device of this tier keeps and uses; what is evaluated."""
        del round_number
        return Plan(tier.rate)

    @classmethod
    def by_length(cls, options: Mapping[str, Scalar]) -> bool:
        """Whether what a round trains depends on how many rounds there are, so that none can be added later."""
        del options
        return False

    def global_rate(self) -> Fraction:
        """Width of the network that the method trains altogether."""
        return Fraction(1)

    def eligible(self, tier: Tier) -> bool:
        """Whether nodes of this tier take part at all."""
        del tier
        return True

    def can_hold(self, tier: Tier, wanted: Tier) -> bool:
        """Whether nodes of a tier can be asked about another one's part. Default: as tiers that differ in width."""
        return tier.rate >= wanted.rate

    def depth_of(self, tier: Tier) -> int:
        """Number of stages that a tier can carry; for the network as a whole, as many as the deepest tier."""
        depths = depths_of(self.settings.tiers, self.layout.exits)
        return depths.get(tier.name, max(depths.values()))

    def part(self, plan: Plan, state: Mapping[str, Tensor] | None = None) -> Submodel:
        """What a plan means in a state, in the present one unless another is given."""
        del state
        return submodel(self.network, plan)

    def objective(self, tier: Tier, round_number: int) -> Objective:
        """What a node optimises in a round."""
        del tier, round_number
        return Objective()

    def weigh(self, sent: TrainAssignment, reply: ClientUpdate, round_number: int) -> tuple[float, float]:
        """Numerator and denominator of a reply, by the aggregation rule; the selection's weight comes on top.

        Raises:
            ValueError: the reply lacks what the rule needs.
        """
        rule = self.settings.aggregation
        norm = parameter_norm(self.layout, sent.part, reply) if rule.USES_NORM else reply.norm
        return rule.weigh(self._update(sent, reply.metrics, round_number), norm)

    def scale(self, learnt: Sequence[AcceptedUpdate], round_number: int) -> float:
        """What the whole step is multiplied by, from the accepted replies."""
        updates = [self._update(one.sent, one.metrics, round_number, one.sent.weight) for one in learnt]
        return self.settings.aggregation.scale(updates)

    def _update(
        self, sent: TrainAssignment, metrics: Mapping[str, float], round_number: int, factor: float = 1.0
    ) -> Update:
        """What the aggregation rule is told of a reply."""
        by_examples = self.BY_EXAMPLES and not self.settings.selector.sets_weights
        weight = factor * (metrics["num-examples"] if by_examples else 1.0)
        optimiser = self.settings.schedule.optimiser(round_number)
        return Update(
            node=sent.node.id,
            weight=weight,
            metrics=metrics,
            optimiser=optimiser,
            dynamic_alpha=self.settings.dynamic_alpha,
        )

    def rows(self, sent: TrainAssignment) -> tuple[int, ...] | None:
        """Class rows that a reply may change; None for all."""
        del sent
        return None

    def needs_labels(self) -> bool:
        """Whether nodes have to say which labels they have."""
        return False

    def refine(self, before: Mapping[str, Tensor]) -> None:
        """Change the state after a round was averaged; not called for a round that is abandoned.

        Args:
            before: the state that the round's differences refer to.
        """
        del before

    def method_state(self) -> dict[str, Any]:
        """What the method remembers between rounds, as JSON."""
        return {}

    def restore_method_state(self, values: Mapping[str, Any]) -> None:
        """Take up `method_state` of a checkpoint."""
        del values
