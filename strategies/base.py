"""The base of every method: Flower's `Strategy` with a few hooks.

A method says which part a node gets (`plan`), what it optimises there (`objective`), how its reply weighs (`weigh`),
and which part a device keeps in the end (`kept_plan`). Everything else is here: hello, selection, requests, folding
replies as they arrive, quorum. It runs in any Flower app:

    HeteroFL(network).start(grid, arrays, num_rounds=20)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from logging import INFO
from time import perf_counter
from typing import Any, ClassVar

import torch
from flwr.app import Message
from flwr.common import log
from flwr.serverapp import Grid
from torch import Tensor

from models.average import PartialAverage
from models.errors import SettingError
from models.network import NetworkSpec, completed, layout, submodel
from models.plans import Plan
from models.randomness import generator
from models.submodel import split
from protocol import EVALUATE, NodeId, Objective, Scalar
from strategies.exchange import exchange
from strategies.fleet import Fleet, Node
from strategies.flower import FlowerStrategy
from strategies.guard import Accepted, Rejected, Rejection, content_of
from strategies.outbox import Outbox
from strategies.rounds import Coverage, Fold, RoundReport, Sent, share_of
from strategies.selection import Candidate
from strategies.settings import Settings
from strategies.surveys import ask_statistics, score_requests
from strategies.tiers import Assignment, Tier


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a method's network looks like unless the user says otherwise.

    Attributes:
        norm: one of `models.norm.NORMS`.
        scaler: whether the Scaler is on.
    """

    norm: str = "static-batch"
    scaler: bool = False


class PartialStrategy(FlowerStrategy):
    """Trains one global network across nodes that each hold a part of it.

    Args:
        network: the global network; its defaults are filled in.
        settings: what does not depend on the method.
        options: the method's own settings by name; see `OPTIONS` of each method.

    Raises:
        SettingError: a setting that cannot be used.
        ValueError: a tier whose part leaves a layer empty.
        TypeError: an option that the method does not have.
    """

    OPTIONS: ClassVar[Mapping[str, Scalar]] = {}
    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {}  # least and most of options that are numbers
    PREFERENCES: ClassVar[Preferences] = Preferences()
    BY_EXAMPLES: ClassVar[bool] = False
    PER_WIDTH: ClassVar[bool] = False  # whether a width always is the same units, as statistics per width need

    def __init__(self, network: NetworkSpec, settings: Settings | None = None, **options: Scalar) -> None:
        self.network = completed(network)
        self.settings = settings or Settings()
        if unknown := set(options) - set(self.OPTIONS):
            raise TypeError(f"{type(self).__name__} has no option {sorted(unknown)}; it has {sorted(self.OPTIONS)}")
        self.options: dict[str, Scalar] = {**self.OPTIONS, **options}
        for option, (least, most) in self.RANGES.items():
            if not least <= float(self.options[option]) <= most:
                raise SettingError(option, self.options[option], f"{least:g} to {most:g}")
        self.layout = layout(self.network)
        self._flat = torch.zeros(self.layout.parameters)
        self.state = split(self._flat, {name: tensor.shape for name, tensor in self.layout.tensors.items()})
        self.average = PartialAverage(self.layout)
        self.coverage = Coverage(self.average)
        self.fleet = Fleet(labels=self.needs_labels())
        self.report, self.sent = RoundReport(0), []
        s = self.settings
        self._assignment = Assignment(s.tier_assignment, s.tiers, s.proportions, s.nodes, s.seed)
        self._members_of: tuple[int, list[Node], dict[NodeId, Tier]] = (-1, [], {})
        self._check()

    # ---- what a method says ------------------------------------------------------------------------------------------

    def plan(self, node: Node, tier: Tier, round_number: int) -> Plan:
        """Which part a node gets in a round. Default: everything."""
        del node, tier, round_number
        return Plan()

    def kept_plan(self, tier: Tier, round_number: int) -> Plan:
        """Which part of the state after a round a device of this tier keeps and uses; what is evaluated."""
        del round_number
        return Plan(tier.rate)

    def global_rate(self) -> Fraction:
        """Width of the network that the method trains altogether."""
        return Fraction(1)

    def eligible(self, tier: Tier) -> bool:
        """Whether nodes of this tier take part at all."""
        del tier
        return True

    def can_hold(self, tier: Tier, rate: Fraction) -> bool:
        """Whether nodes of a tier can be asked about a part of this rate."""
        return tier.rate >= rate

    def objective(self, tier: Tier) -> Objective:
        """What a node optimises."""
        del tier
        return Objective()

    def weigh(self, sent: Sent, reply: Accepted, round_number: int) -> tuple[float, float]:
        """Numerator and denominator of a reply. Default: 1 and 1, or examples and examples."""
        del sent, round_number
        by_examples = {"examples": True, "uniform": False}.get(self.settings.aggregation, self.BY_EXAMPLES)
        weight = reply.metrics["num-examples"] if by_examples else 1.0
        return weight, weight

    def rows(self, sent: Sent) -> tuple[int, ...] | None:
        """Class rows that a reply may change; None for all."""
        del sent
        return None

    def needs_labels(self) -> bool:
        """Whether nodes have to say which labels they have."""
        return False

    def method_state(self) -> dict[str, Any]:
        """What the method remembers between rounds, as JSON."""
        return {}

    def restore_method_state(self, values: Mapping[str, Any]) -> None:
        """Take up `method_state` of a checkpoint."""
        del values

    # ---- one round ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Find what cannot be before anything starts."""
        s = self.settings
        if self.network.norm == "batch-per-width" and not self.PER_WIDTH:
            allowed = f"a norm without statistics per width: the units of a width change in {type(self).__name__}"
            raise SettingError("norm", self.network.norm, allowed)
        shares = zip(s.tiers, s.proportions, strict=True)
        if s.tier_assignment != "node" and not any(share and self.eligible(tier) for tier, share in shares):
            raise SettingError("tiers", ", ".join(f"{t.name}:{t.rate}" for t in s.tiers), "a tier that may take part")
        for tier in s.tiers:
            submodel(self.network, self.kept_plan(tier, 1))

    def prepare(self, grid: Grid, round_number: int) -> None:
        """Hello, select, plan; fills `report` and `sent`."""
        report = self.report = RoundReport(round_number)
        outbox, marks = self.outbox(round_number), [perf_counter()]
        nodes, tiers = self._members(grid, round_number, report)
        marks.append(perf_counter())
        taking_part = [node for node in nodes if node.id in tiers and self.eligible(tiers[node.id])]
        selected = self._select(grid, outbox, taking_part, tiers, round_number)
        marks.append(perf_counter())
        self.sent = []
        for node in selected:
            tier = tiers[node.id]
            self.sent.append(outbox.train(node, tier, self.plan(node, tier, round_number), self.objective(tier)))
        report.selected = [node.id for node in selected]
        report.bytes_down = sum(sent.bytes_down for sent in self.sent)
        marks.append(perf_counter())
        for phase, began, ended in zip(("hello", "select", "plan"), marks, marks[1:], strict=False):
            report.seconds[phase] = ended - began

    def fold(self) -> Fold:
        """What takes the replies to `sent`."""
        number = self.report.number
        codec = self.settings.codec
        return Fold(self.average, self.report, self.sent, codec, lambda s, r: self.weigh(s, r, number), self.rows)

    def conclude(self, fold: Fold) -> None:
        """The new state, or none for want of replies."""
        began = perf_counter()
        if fold.enough(self.settings.quorum):
            fold.learn()
            self.average.finish(self.state, out=self.state)
            self.report.coverage = self.coverage.count()
        else:
            self.report.abandoned = True
        self.report.seconds["finish"] = perf_counter() - began

    def outbox(self, round_number: int) -> Outbox:
        """Messages about the present state."""
        return Outbox(self.network, self.settings, self.state, self._flat, round_number)

    def _members(
        self, grid: Grid, round_number: int, report: RoundReport | None = None
    ) -> tuple[list[Node], dict[NodeId, Tier]]:
        """All nodes that are online, and the tiers of those that have one; the others are named in the report."""
        if self._members_of[0] == round_number and report is None:
            return self._members_of[1:]  # who is there was asked when the round began
        nodes, rejected = self.fleet.greet(grid)
        tiers: dict[NodeId, Tier] = {}
        for node in nodes:
            try:
                tiers[node.id] = self._assignment.tier_of(node.id, node.hello.tier, round_number)
            except ValueError as error:
                rejected.append(Rejection(node.id, str(error)))
        if report is not None:
            report.rejected += rejected
        self._members_of = (round_number, nodes, tiers)
        return nodes, tiers

    def _select(
        self, grid: Grid, outbox: Outbox, nodes: Sequence[Node], tiers: Mapping[NodeId, Tier], round_number: int
    ) -> list[Node]:
        if not nodes:
            return []
        by_id = {node.id: node for node in nodes}

        def probe(wanted: Sequence[NodeId]) -> dict[NodeId, Mapping[str, float]]:
            """Scores of the state on the candidates' own data."""
            asked = [outbox.ask(EVALUATE, by_id[i], self.kept_plan(tiers[i], round_number)) for i in wanted]
            found: dict[NodeId, Mapping[str, float]] = {}

            def take(i: int, message: Message | None) -> None:
                try:
                    found[wanted[i]] = content_of(message, asked[i][0], None).metrics
                except Rejected as rejected:
                    self.report.rejected.append(Rejection(wanted[i], f"probe: {rejected}"))

            exchange(grid, [message for _, message in asked], take, seconds=self.settings.deadline)
            return found

        candidates = [
            Candidate(n.id, tiers[n.id].name, n.hello.examples, n.last_loss, n.last_round, n.last_seconds)
            for n in nodes
        ]
        count = max(1, share_of(self.settings.fraction_train, len(nodes)))
        draws = generator(self.settings.seed, round_number, "server", "select")
        return [by_id[node] for node in self.settings.selector.select(candidates, count, draws, probe)]

    # ---- surveys -----------------------------------------------------------------------------------------------------

    def statistics(self, grid: Grid, round_number: int, wanted: Sequence[Tier]) -> dict[str, Tensor]:
        """Moments of static batch norm by tier, pooled over the nodes (see `surveys.ask_statistics`)."""
        nodes, tiers = self._members(grid, round_number)
        kept = {tier: self.kept_plan(tier, round_number) for tier in wanted}
        outbox, seconds = self.outbox(round_number), self.settings.deadline
        return ask_statistics(grid, self.network, outbox, nodes, tiers, kept, self.can_hold, seconds, self.report)

    def score_messages(self, grid: Grid, round_number: int) -> list[Message]:
        """Requests to a share of the nodes to score their tier's part on their own test examples."""
        if not self.settings.fraction_evaluate:
            return []
        nodes, tiers = self._members(grid, round_number)
        able = [node for node in nodes if node.id in tiers]
        count = share_of(self.settings.fraction_evaluate, len(able))
        draws = generator(self.settings.seed, round_number, "server", "evaluate")
        chosen = [able[i] for i in sorted(draws.choice(len(able), count, replace=False))] if able else []
        kept = {tier.name: self.kept_plan(tier, round_number) for tier in self.settings.tiers}
        return score_requests(self.outbox(round_number), chosen, tiers, kept)

    def summary(self) -> None:
        """Log one line."""
        tiers = ", ".join(f"{tier.name}={tier.rate}" for tier in self.settings.tiers)
        size = f"{self.layout.parameters:,}"
        log(INFO, "%s on %s (%s parameters), tiers %s", type(self).__name__, self.network.name, size, tiers)

    # ---- checkpoint --------------------------------------------------------------------------------------------------

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next rounds depend on: tensors and JSON values."""
        tensors = {f"state/{name}": tensor for name, tensor in self.state.items()}
        tensors |= {f"coverage/{name}": tensor.to(torch.uint8) for name, tensor in self.coverage.ever.items()}
        return tensors, {"method": self.method_state(), "fleet": self.fleet.history()}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a `checkpoint`."""
        for name, tensor in self.state.items():
            tensor.copy_(tensors[f"state/{name}"])
        self.coverage.restore({name: tensors[f"coverage/{name}"] for name in self.coverage.ever})
        self.restore_method_state(values["method"])
        self.fleet.remember(values["fleet"])
