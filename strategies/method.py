"""What a method says: which part a node gets, what it optimises there, how its reply weighs, what becomes of the mean.

A method is hooks and options, nothing else: every hook is a pure function of a `RoundContext` and its arguments. What a
method remembers between rounds is a value that goes in and comes out: JSON of the run (`plan_round`, `learnt`), tensors
of each global state (`refine`). The round itself is in `strategies.round.runner`; a runner has a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from models.algebra.plans import Plan, leading
from models.algebra.rates import FULL, Rate
from models.algebra.submodel import Submodel
from models.errors import SettingError
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.registry import with_exits
from models.networks.spec import NetworkSpec
from models.settings import Setting, read_options
from protocol import Objective, Optimiser, Scalar
from strategies.aggregation import Update, parameter_norm
from strategies.aggregation.server_optimiser import initial_slots, optimise
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from strategies.settings import Settings
from strategies.tiers.reach import check_groups, check_reach
from strategies.tiers.tier import Tier

Values = Mapping[str, Any]  # what a method remembers of a run, as JSON
Tensors = Mapping[str, Tensor]


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


class Method:
    """The hooks of a method, with the defaults that most keep.

    Args:
        options: the method's own settings by name; see `OPTIONS` of each method.

    Attributes:
        options: all of them.

    Raises:
        TypeError: an option that the method does not have.
        SettingError: one that is out of range.
    """

    OPTIONS: ClassVar[Mapping[str, Setting]] = {}
    PREFERENCES: ClassVar[Preferences] = Preferences()
    BY_EXAMPLES: ClassVar[bool] = False
    PER_WIDTH: ClassVar[bool] = False  # whether a width always is the same units, as statistics per width need
    WIDTHS: ClassVar[bool] = True  # whether tiers differ in width
    ONE_RATE: ClassVar[str] = ""  # what its tiers' sizes are, where they cannot be a rate for every group of axes
    PER_COORDINATE: ClassVar[bool] = False  # whether parts have element masks, so that every coordinate has holders
    REFINES: ClassVar[bool] = False  # whether it has a `refine` of its own, for which the state before is kept
    KEEPS_FACTORS: ClassVar[bool] = False  # whether `refine` wants every device's pairs, from a `FactorAverage`
    ONE_AGE: ClassVar[str] = ""  # why replies that began with unlike states cannot be averaged; "" where they can
    SLOTS: ClassVar[Sequence[str]] = ()  # what a server optimiser (`step`) remembers of every parameter, by name

    def __init__(self, options: Mapping[str, Scalar]) -> None:
        if unknown := set(options) - set(self.OPTIONS):
            raise TypeError(f"{type(self).__name__} has no option {sorted(unknown)}; it has {sorted(self.OPTIONS)}")
        self.options: Mapping[str, Scalar] = read_options(self.OPTIONS, options)

    # ---- the network, before anything starts ------------------------------------------------------------------------

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
        whole = completed(network)
        shape = layout(whole)
        if network.exits != "last" and not shape.exits:
            raise SettingError("model", network.name, f"a network with exits after its stages, for {cls.__name__}")
        cut = cls.WIDTHS and any(tier.rate < 1 for tier in settings.tiers)
        if cut and not any(axis.kind.cut for axis in shape.axes.values()):
            allowed = f"a network that can be cut in width, for {cls.__name__}; `flotilla inspect` says why it cannot"
            raise SettingError("model", network.name, allowed)
        check_groups(shape, settings.tiers, f"for {cls.__name__}, whose sizes {cls.ONE_RATE}" if cls.ONE_RATE else "")
        if cut and whole.fingerprint:  # what was found may be few units, which nobody has chosen
            check_reach(shape, settings.tiers)
        for tier in settings.tiers:
            if (tier.depth or 0) > shape.depth:
                allowed = f"depths of 1 to {shape.depth} for {network.name!r} ({tier.name!r} has {tier.depth})"
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

    @classmethod
    def by_length(cls, options: Mapping[str, Scalar]) -> bool:
        """Whether what a round trains depends on how many rounds there are, so that none can be added later."""
        del options
        return False

    def check(self, context: RoundContext) -> None:
        """Find what cannot be with these settings before anything starts.

        Raises:
            SettingError: names the option, its value and what is allowed.
        """
        del context

    def doubts(self, context: RoundContext) -> list[str]:
        """What works, but not as one might expect; one line each."""
        del context
        return []

    # ---- which part --------------------------------------------------------------------------------------------------

    def initial_values(self) -> Values:
        """What the method remembers of a run before its first round, as JSON."""
        return {}

    def plan_round(
        self, context: RoundContext, values: Values, participants: Sequence[Participant]
    ) -> tuple[list[Plan], Values]:
        """Which part each node of a round gets. Default: what `plan` says, which remembers nothing.

        Args:
            context: of the round.
            values: what the method remembers; must not be changed.
            participants: whom to plan for, in the round's order.

        Returns:
            One plan a participant, and what the method remembers from now on. Who only wants to know what the plans
            would be drops the latter.
        """
        now = context.round_number
        told = [context if one.round_number == now else context.at(one.round_number) for one in participants]
        return [self.plan(then, one.node, one.tier) for then, one in zip(told, participants, strict=True)], values

    def learnt(self, context: RoundContext, values: Values, counted: Sequence[AcceptedUpdate]) -> Values:
        """What the method remembers of a run after a round. Default: what it did before.

        Args:
            context: of the round.
            values: as `plan_round` left them; must not be changed.
            counted: the replies that counted, whose numbers are the nodes' own word; none of an abandoned round.
        """
        del context, counted
        return values

    def plan(self, context: RoundContext, node: Node, tier: Tier) -> Plan:
        """Which part a node gets in a round. Default: everything."""
        del context, node, tier
        return Plan()

    def kept_plan(self, context: RoundContext, tier: Tier) -> Plan:
        """Which part of the state after a round a device of this tier keeps and uses; what is evaluated."""
        del context
        return leading(tier.rate)

    def part(self, context: RoundContext, plan: Plan, state: Tensors) -> Submodel:
        """What a plan means in a state."""
        del state
        return submodel(context.network, plan)

    def global_rate(self, context: RoundContext) -> Rate:
        """Width of the network that the method trains altogether."""
        del context
        return FULL

    def eligible(self, context: RoundContext, tier: Tier) -> bool:
        """Whether nodes of this tier take part at all: asked once in a run, about its first round."""
        del context, tier
        return True

    def can_hold(self, context: RoundContext, tier: Tier, wanted: Tier) -> bool:
        """Whether nodes of a tier can be asked about another one's part. Default: as tiers that differ in width."""
        del context
        return tier.rate >= wanted.rate

    # ---- what a node does --------------------------------------------------------------------------------------------

    def objective(self, context: RoundContext, tier: Tier) -> Objective:
        """What a node optimises in a round. Default: cross entropy."""
        del context, tier
        return Objective()

    def optimiser(self, context: RoundContext, tier: Tier) -> Optimiser:
        """With which steps. Default: those of the run's schedule."""
        del tier
        return context.optimiser

    def needs_labels(self) -> bool:
        """Whether nodes have to say which labels they have."""
        return False

    def needs_tokens(self) -> bool:
        """Whether nodes have to say which tokens occur in their texts."""
        return False

    # ---- what its reply counts ---------------------------------------------------------------------------------------

    def weigh(self, context: RoundContext, assignment: TrainAssignment, update: ClientUpdate) -> tuple[float, float]:
        """Numerator and denominator of a reply, by the aggregation rule; the selection's weight comes on top.

        Raises:
            ValueError: the reply lacks what the rule needs.
        """
        rule = context.settings.aggregation
        norm = parameter_norm(context.layout, assignment.part, update) if rule.USES_NORM else update.norm
        return rule.weigh(self._told(context, assignment, update.metrics), norm)

    def scale(self, context: RoundContext, accepted: Sequence[AcceptedUpdate]) -> float:
        """What the whole step is multiplied by, from the accepted replies."""
        told = [self._told(context, one.assignment, one.metrics, one.assignment.weight) for one in accepted]
        return context.settings.aggregation.scale(told)

    def rows(self, assignment: TrainAssignment) -> tuple[int, ...] | None:
        """Class rows that a reply may change; None for all."""
        del assignment
        return None

    def token_rows(self, assignment: TrainAssignment) -> tuple[int, ...] | None:
        """Tokens whose rows a reply may change; None for all."""
        del assignment
        return None

    def _told(
        self, context: RoundContext, assignment: TrainAssignment, metrics: Mapping[str, float], factor: float = 1.0
    ) -> Update:
        """What the aggregation rule is told of a reply."""
        by_examples = self.BY_EXAMPLES and not context.settings.selector.sets_weights
        return Update(
            node=assignment.node.id,
            weight=factor * (metrics["num-examples"] if by_examples else 1.0),
            metrics=metrics,
            optimiser=assignment.optimiser,
            dynamic_alpha=assignment.dynamic_alpha,
        )

    # ---- what becomes of the mean ------------------------------------------------------------------------------------

    @property
    def refines(self) -> bool:
        """Whether a global state changes further after a round was averaged into it."""
        return self.REFINES or bool(self.SLOTS)

    def step(self, mean: Tensor, slots: Tensors) -> tuple[Tensor, Tensors]:
        """The server optimiser of methods that have `SLOTS`, for one parameter.

        Args:
            mean: mean difference of the round.
            slots: what is remembered of the parameter, by the names in `SLOTS`; zeros at first.

        Returns:
            What is added to the parameter in place of the mean, and what is remembered from now on.
        """
        return mean, slots

    def initial_tensors(self, layout: Layout) -> Tensors:
        """What the method remembers of a global state before its first round. Default: zeros in every slot."""
        return initial_slots(layout, self.SLOTS)

    def refine(
        self, context: RoundContext, before: Tensors, after: Tensors, average: PartialAverage, remembered: Tensors
    ) -> Tensors:
        """Change a global state after a round was averaged into it; not called for a round that is abandoned.

        Only methods that say `REFINES` or have `SLOTS` are asked. Default: what `step` says.

        Args:
            context: of the round.
            before: the state that the round's differences refer to.
            after: the state with their mean added; changed in place.
            average: what made it; tells how many held each coordinate.
            remembered: what the method remembers of this state, see `initial_tensors`; must not be changed.

        Returns:
            What it remembers of it from now on, under the same names.
        """
        del context
        return optimise(self.step, self.SLOTS, before=before, after=after, average=average, remembered=remembered)
