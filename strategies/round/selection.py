"""Runs the selector of a strategy: what is known of the nodes goes in, nodes and the weights of replies come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.axes import Layout
from models.algebra.plans import Plan
from models.errors import SettingError
from models.randomness import generator
from protocol import NodeId, Objective
from strategies.aggregation import effective_steps
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from strategies.nodes.candidate_index import CandidateIndex
from strategies.nodes.history import NodeHistory
from strategies.round.probe import GridProbe
from strategies.round.requests import RequestFactory
from strategies.selection import Candidates
from strategies.selection.update_sketch import UpdateSketcher
from strategies.settings import Settings
from strategies.tiers.tier import Tier, share_of

MOST_VECTOR_BYTES = 2 << 30


class SelectionRunner:
    """Who takes part in a round, and what is remembered for it.

    Args:
        settings: of the strategy.
        layout: declaration of its network.

    Attributes:
        table: what was learnt of every node.
        notes: what the selector wants to remember beside.

    Raises:
        SettingError: a selector that does not fit the number of nodes, or vectors that do not fit the memory.
    """

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._settings, self._selector = settings, settings.selector
        self._places = {tier.name: i for i, tier in enumerate(settings.tiers)}
        works = [settings.work_of(tier) for tier in settings.tiers]
        self._planned = np.array([work.local_steps for work in works], dtype=float)
        self._batch = works[0].batch_size  # which the aggregation may have changed; tiers do not differ in it
        self._round = 0
        self._selector.check(self._asked(settings.nodes), settings.nodes)
        wanted = self._selector.vectors
        self._of_differences = wanted is not None and wanted.of_differences
        self._vectoriser = UpdateSketcher(layout, wanted.kind, wanted.size, settings.seed) if wanted else None
        size = self._vectoriser.size if self._vectoriser else 0
        if wanted and 4 * size * settings.nodes > MOST_VECTOR_BYTES:
            allowed = f"projected, or last-layer: {settings.nodes:,} nodes x {size:,} coordinates do not fit in 2 GiB"
            raise SettingError("divfl-vectors", wanted.kind, allowed)
        self.table = NodeHistory(size)
        self.notes: dict[str, Any] = {}
        self._roster: CandidateIndex | None = None

    def choose(
        self,
        grid: Grid,
        outbox: RequestFactory,
        nodes: Sequence[Node],
        tiers: Mapping[NodeId, Tier],
        kept_plan: Callable[[Tier, int], Plan],
        objective: Callable[[Tier, int], Objective],
        report: RoundReport,
    ) -> list[tuple[Node, float]]:
        """Choose the nodes of the report's round.

        Args:
            grid: where the nodes are.
            outbox: messages about the present state.
            nodes: that may take part, in order of their ids.
            tiers: tier by node.
            kept_plan: the part that a tier keeps in a round.
            objective: what a tier optimises in a round.
            report: told whom was chosen, and what asking cost.

        Returns:
            Nodes, in the order in which they are folded, and what numerator and denominator are multiplied by.
        """
        if not nodes:
            return []
        number = self._round = report.number
        if self._roster is None or not self._roster.is_of(nodes, tiers):
            self._roster = CandidateIndex.of(nodes, tiers, self._places, self.table)
        roster = self._roster
        probe = GridProbe(
            grid=grid,
            outbox=outbox,
            nodes=nodes,
            plan=lambda i: kept_plan(tiers[nodes[i].id], number),
            common=kept_plan(self._settings.tiers[-1], number),
            objective=lambda i: objective(tiers[nodes[i].id], number),
            seconds=self._settings.wait,
            report=report,
            table=self.table,
            vectoriser=self._vectoriser,
        )
        draws = generator(self._settings.seed, number, "server", "select")
        candidates = self._candidates(roster, number)
        selection = self._selector.select(candidates, self._asked(len(nodes)), draws, probe)
        report.wanted = min(self._count(len(nodes)), len(selection.nodes))
        chosen = [roster.position[node] for node in selection.nodes]
        self.table.column("selected")[roster.rows[chosen]] += 1
        report.selected = list(selection.nodes)
        report.selected_tiers = dict(Counter(tiers[node].name for node in selection.nodes))
        report.selected_ever = int(np.count_nonzero(self.table.column("selected")))
        weights = selection.weights or [1.0] * len(chosen)
        return [(nodes[i], weight) for i, weight in zip(chosen, weights, strict=True)]

    def vector(self, sent: TrainAssignment, reply: ClientUpdate) -> NDArray[np.float32] | None:
        """What is to be remembered of a difference: the gradient that it stands for, (w - w_k)/(ητ).

        So neither a schedule nor a tier's steps make devices look unlike; steps count as in FedNova. None where
        differences are not remembered, and for a reply that does not say its steps.
        """
        if self._vectoriser is None or not self._of_differences:
            return None
        steps, optimiser = reply.metrics.get("steps", 0.0), self._settings.schedule.optimiser(self._round)
        if not steps >= 1 or not optimiser.learning_rate > 0:
            return None
        pull = optimiser.learning_rate * self._settings.dynamic_alpha
        length = optimiser.learning_rate * effective_steps(steps, optimiser.momentum, pull)
        return self._vectoriser.vector(sent.part, reply.difference) / np.float32(-length)

    def learn(self, learnt: Sequence[AcceptedUpdate], round_number: int) -> None:
        """Note what the accepted replies of a round said of their nodes."""
        for one in learnt:
            self.table.learn(one.sent.node.id, round_number, self._places[one.sent.tier], one.metrics)
            if one.vector is not None:
                self.table.vectors[self.table.row(one.sent.node.id)] = one.vector

    def counted(self, node: NodeId) -> int:
        """Round of a node's last reply that counted; 0 if there was none."""
        row = self.table.row(node)
        return int(self.table.column("round")[row])

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the next selections depend on: tensors and JSON values."""
        tensors, nodes = self.table.checkpoint()
        return tensors, {"nodes": nodes, "notes": self.notes}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a `checkpoint`."""
        self.table.restore(tensors, values["nodes"])
        self.notes = dict(values["notes"])

    def _count(self, nodes: int) -> int:
        return max(1, share_of(self._settings.fraction_train, nodes))

    def _asked(self, nodes: int) -> int:
        """How many are asked: with over-selection more than are needed."""
        return min(nodes, share_of(self._settings.over_selection, self._count(nodes)))

    def _candidates(self, roster: CandidateIndex, number: int) -> Candidates:
        table, rows = self.table, roster.rows
        # Where steps are planned, a node will do those of its present tier; else it will go over its examples again, as
        # it did in its last training.
        steps, planned = table.column("steps")[rows], self._planned[roster.places]
        steps = np.where(planned > 0, planned, steps)
        return Candidates(
            nodes=roster.ids,
            examples=roster.examples,
            tiers=roster.places,
            loss=table.column("loss")[rows],
            loss_square=table.column("loss_square")[rows],
            loss_tiers=table.column("tier")[rows].astype(np.intp),
            last_round=table.column("round")[rows],
            seconds=table.column("seconds")[rows],
            steps=steps,
            selected=table.column("selected")[rows],
            vectors=table.vectors[rows],
            round_number=number,
            batch_size=self._batch,
            notes=self.notes,
        )
