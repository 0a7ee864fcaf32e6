"""Who is there in a round, and in which tier: told, drawn or measured, on the wall's clock or on a virtual one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from logging import WARNING
from typing import Any

from flwr.common import log
from flwr.serverapp import Grid
from torch import Tensor

from models.errors import SettingError
from protocol import NodeId
from strategies.exchange.fleet import Fleet, TierTable
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.exchange.update import Rejection
from strategies.nodes.manager import NodeManager, NotEnoughNodes
from strategies.nodes.patience import Patience
from strategies.nodes.requirements import TierRequirements
from strategies.robustness.examples import believed
from strategies.robustness.privacy import WHY_TOLD
from strategies.settings import Settings
from strategies.tiers.adaptive import AdaptiveTiers
from strategies.tiers.tier import Assignment, Tier
from strategies.virtual.clock import VirtualClock

Present = tuple[Sequence[Node], Mapping[NodeId, Tier]]


class Availability(Stateful):
    """The nodes of a round and their tiers.

    Args:
        settings: of the run.
        manager: says hello to nodes; told what they are to measure, if some may be.
        patience: says who is not asked, because it has not answered for some rounds.
        requirements: makes what the tiers would ask of a device.
        clock: of a virtual fleet, whose devices are not always there and say what they would have measured.

    Attributes:
        number: of the round for which nodes were last asked; -1 before the first.
        present: who was there then.
    """

    def __init__(
        self,
        settings: Settings,
        manager: NodeManager,
        *,
        requirements: Callable[[], TierRequirements],
        patience: Patience,
        clock: VirtualClock | None,
    ) -> None:
        s = self._settings = settings
        self._manager, self._clock, self._patience = manager, clock, patience
        self._assignment = Assignment(s.tier_assignment, s.tiers, proportions=s.proportions, nodes=s.nodes, seed=s.seed)
        self._private = bool(s.guard.dp_noise)  # then no tier is measured
        self._requirements = requirements() if s.tier_assignment in ("node", "measured") and not self._private else None
        if self._requirements is not None and clock is None:
            manager.profile = self._requirements.request().to_text()
        names = [tier.name for tier in s.tiers]
        self._measured = AdaptiveTiers(names, self._requirements.rule) if self._requirements is not None else None
        self.number = -1
        self._greeted: tuple[Sequence[Node], Sequence[Node]] = ([], [])  # as they say, and as they are believed
        self.present: Present = ([], {})

    def wait(self, grid: Grid) -> None:
        """Wait for the nodes that the run expects, or at least those that it needs.

        Raises:
            NotEnoughNodes: they did not come.
        """
        s = self._settings
        online = self._manager.wait(grid, s.nodes, s.min_nodes, s.node_wait)
        if online < s.nodes:
            hint = "more: `flotilla run`, or `flwr run . --federation-config 'num-supernodes=%d'`"
            log(WARNING, f"%d of %d nodes are online; {hint}", online, s.nodes, s.nodes)

    def waits(self, grid: Grid, round_number: int) -> bool:
        """Whether a round begins with waiting for nodes to come back or to say hello."""
        return self._manager.waits(grid, round_number, self._settings.min_nodes)

    def of(self, grid: Grid, round_number: int, report: RoundReport | None = None) -> Present:
        """All nodes that are there, and the tiers of those that have one; the others are named in the report.

        Lists and tiers are the same objects as long as nobody comes, goes or changes tier.

        Args:
            grid: where the nodes are.
            round_number: 1-based.
            report: given when the round begins, which waits a while where nodes have left; else who was there then
                is not asked again.

        Raises:
            NotEnoughNodes: there are nodes, but none of them has a tier and knows the codecs, when the run begins.
        """
        if self.number == round_number and report is None:
            return self.present
        least = 0 if report is None else self._settings.min_nodes
        nodes, rejected = self._manager.greet(grid, round_number, least=least, seconds=self._settings.node_wait)
        if nodes is not self._greeted[0]:  # somebody came or went
            self._greeted = nodes, believed(nodes, self._settings.guard)
        nodes = self._greeted[1]
        clock = self._clock
        if clock is not None:
            nodes = [node for node in nodes if clock.online(node.id, round_number)]
            nodes = self.present[0] if nodes == self.present[0] else nodes
        if self._patience.silence.anybody:
            nodes = self._awake(nodes, round_number, report)
        tiers, moved = self.present[1], self._measured is not None and self._measured.changed
        if nodes is not self.present[0] or len(tiers) < len(nodes) or not self._assignment.lasting or moved:
            tiers = self._tiers(nodes, round_number, rejected)
            if self._measured is not None:
                self._measured.changed = False
        if report is not None:
            report.rejected += rejected
            if self._manager.waited is not None:
                report.waiting["hello"] = self._manager.waited.to_row()
            if self.number == -1 and nodes and not tiers:
                raise NotEnoughNodes(f"none of {len(nodes)} nodes can take part; one of them: {rejected[-1].reason}")
        self.number, self.present = round_number, (nodes, tiers)
        return self.present

    def _tiers(self, nodes: Sequence[Node], number: int, rejected: list[Rejection]) -> Mapping[NodeId, Tier]:
        """The tiers of those that have one; why the others have none goes into `rejected`."""
        if isinstance(nodes, Fleet) and self._knows_codecs(nodes[0]):
            positions = self._assignment.positions(nodes.ids, number)
            if positions is not None:
                return TierTable(nodes, self._settings.tiers, positions)
        tiers = {}
        for node in nodes:
            try:
                self._check_codecs(node)
                tiers[node.id] = self._tier(node, number)
            except ValueError as error:
                rejected.append(Rejection(node.id, str(error)))
        return tiers

    def _awake(self, nodes: Sequence[Node], number: int, report: RoundReport | None) -> Sequence[Node]:
        """Leave out who rests, as long as there are as many others as the run needs."""
        ids = nodes.ids if isinstance(nodes, Fleet) else [node.id for node in nodes]
        resting = set(self._patience.resting(ids, number))
        if not resting or len(nodes) - len(resting) < self._settings.min_nodes:
            return nodes
        if report is not None:
            report.resting = [node for node in ids if node in resting]
        if isinstance(nodes, Fleet):
            return nodes.without(resting)
        awake = [node for node in nodes if node.id not in resting]
        return self.present[0] if awake == self.present[0] else awake

    def _knows_codecs(self, node: Node) -> bool:
        try:
            self._check_codecs(node)
        except SettingError:
            return False
        return True

    def _check_codecs(self, node: Node) -> None:
        """See that a node can read and write what the run sends.

        Raises:
            SettingError: it knows another set of codecs.
        """
        known, s = node.hello.codecs, self._settings
        for key, name in (("codec", s.codec.name), ("codec-down", s.codec_down.name)):
            if known and name not in known:
                raise SettingError(key, name, f"what node {node.id} knows: {', '.join(known)}")

    def _tier(self, node: Node, round_number: int) -> Tier:
        if self._private and self._assignment.measures(node.hello.tier):
            raise SettingError("tier", node.hello.tier, f"{', '.join(t.name for t in self._settings.tiers)} {WHY_TOLD}")
        if self._measured is None or self._requirements is None or not self._assignment.measures(node.hello.tier):
            return self._assignment.tier_of(node.id, node.hello.tier, round_number)
        figures: Mapping[str, float] = node.hello.figures
        if self._clock is not None:
            figures = self._clock.figures(node.id, self._requirements.names, self._requirements.plans)
        demand = self._requirements.demand(figures, node.examples)
        return self._settings.tiers[self._measured.position(node.id, demand)]

    def learn(self, outcome: RoundOutcome) -> None:
        """Note whose replies came and whose did not, also in a round that is abandoned."""
        if self._measured is not None:
            for assignment in outcome.missed:
                self._measured.missed(assignment.node.id)
            for one in outcome.accepted:
                node, tier = one.assignment.node.id, one.assignment.tier
                sure, most = outcome.transport_seconds.get(node), outcome.transport_at_most.get(node)
                self._measured.replied(node, tier, one.metrics, sure, at_most=most)

    def checkpoint(self) -> Saved:
        """What the next tiers depend on, and whose an id is."""
        measured = [] if self._measured is None else self._measured.checkpoint()
        return {}, {"measured": measured, "ids": self._manager.claims.checkpoint()}

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        del tensors
        self._manager.claims.restore(values["ids"])
        if self._measured is not None:
            self._measured.restore(values["measured"])
