"""Runs the selector of a strategy: what is known of the nodes goes in, nodes and the weights of replies come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.axes import Layout
from models.algebra.rates import share_of
from models.errors import SettingError
from models.randomness import generator
from protocol import NodeId
from strategies.context import RoundContext
from strategies.exchange.assignment import TrainAssignment, effective_steps
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome, Saved, Stateful
from strategies.exchange.update import ClientUpdate
from strategies.method import Method
from strategies.nodes.candidate_index import CandidateIndex
from strategies.nodes.history import NodeHistory
from strategies.nodes.patience import Patience
from strategies.round.known_candidates import KnownCandidates
from strategies.round.parts import kept_part
from strategies.round.probe import GridProbe
from strategies.round.requests import StateCache
from strategies.selection import Candidates, Selection
from strategies.selection.update_sketch import UpdateSketcher
from strategies.settings import Settings
from strategies.tiers.tier import Tier, common_tier

MOST_VECTOR_BYTES = 2 << 30


class SelectionRunner(Stateful):
    """Who takes part in a round, and what is remembered for it.

    Args:
        settings: of the run.
        layout: declaration of its network.

    Attributes:
        asks: whether nodes may be asked something before others are chosen.
        of_differences: whether a vector of every accepted difference is remembered.
        history: what was learnt of every node.
        notes: what the selector wants to remember beside.

    Raises:
        SettingError: a selector that does not fit the number of nodes, or vectors that do not fit the memory.
    """

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._settings, self._selector = settings, settings.selector
        self._positions = {tier.name: i for i, tier in enumerate(settings.tiers)}
        works = [settings.work_of(tier) for tier in settings.tiers]
        self._planned = np.array([work.local_steps for work in works], dtype=float)
        self._batch = works[0].batch_size  # which the aggregation may have changed; tiers do not differ in it
        self._selector.check(self._asked(settings.nodes), settings.nodes)
        wanted = self._selector.vectors
        self.asks = self._selector.asks
        self.of_differences = wanted is not None and wanted.of_differences
        self._sketcher = UpdateSketcher(layout, wanted.kind, wanted.size, settings.seed) if wanted else None
        size = self._sketcher.size if self._sketcher else 0
        if wanted and 4 * size * settings.nodes > MOST_VECTOR_BYTES:
            allowed = f"projected, or last-layer: {settings.nodes:,} nodes x {size:,} coordinates do not fit in 2 GiB"
            raise SettingError("divfl-vectors", wanted.kind, allowed)
        self.history = NodeHistory(size)
        self.notes: dict[str, Any] = {}
        self._index: CandidateIndex | None = None
        self._wanted = (0, 0)  # how many of its nodes a round needs, and asks
        self._seconds = settings.wait

    def choose(
        self,
        grid: Grid,
        context: RoundContext,
        *,
        method: Method,
        states: StateCache,
        nodes: Sequence[Node],
        tiers: Mapping[NodeId, Tier],
        patience: Patience,
        report: RoundReport,
        count: int | None = None,
    ) -> list[tuple[Node, float]]:
        """Choose the nodes of a round.

        Args:
            grid: where the nodes are.
            context: of the round.
            method: says what nodes would be asked about.
            states: what questions to them carry.
            nodes: that may take part, in order of their ids.
            tiers: tier by node.
            patience: asks what the selector wants to know.
            report: told who was chosen, and what asking cost.
            count: how many to choose at most, where it is not the settings that say so.

        Returns:
            Nodes, in the order in which their replies are added, and what numerator and denominator are multiplied by.

        Raises:
            SettingError: the selector gave something else than candidates, each once.
        """
        if not nodes:
            return []
        number = context.round_number
        index = self._index
        if index is None or index.nodes is not nodes or index.tiers is not tiers:
            index = self._index = CandidateIndex.of(nodes, tiers, self._positions)
            self._wanted = self._count(len(nodes)), self._asked(len(nodes))
        wanted, asked = self._wanted if count is None else (min(count, len(nodes)),) * 2
        probe = GridProbe(
            grid=grid,
            context=context,
            states=states,
            nodes=nodes,
            plan=lambda i: kept_part(method, context, tiers[nodes[i].id]),
            common=lambda: kept_part(method, context, common_tier(self._settings.tiers)),
            objective=lambda i: method.objective(context, tiers[nodes[i].id]),
            patience=patience,
            seconds=self._seconds,
            report=report,
            history=self.history,
            sketcher=self._sketcher,
            guard=self._settings.guard.guard,
        )
        candidates = self._candidates(index, number)
        draws = generator(self._settings.seed, number, "server", "select")
        selection = self._selector.select(candidates, asked, draws, probe)
        chosen = self._chosen(selection, index)
        report.wanted = min(wanted, len(selection.nodes))
        report.selected = list(selection.nodes)
        report.selected_tiers = dict(Counter(tiers[node].name for node in selection.nodes))
        report.selected_ever = self.history.choose(self.history.rows(selection.nodes))
        weights = selection.weights or [1.0] * len(chosen)
        return [(nodes[i], weight) for i, weight in zip(chosen, weights, strict=True)]

    def vector(self, assignment: TrainAssignment, update: ClientUpdate) -> NDArray[np.float32] | None:
        """What is to be remembered of a difference: the gradient that it stands for, (w - w_k)/(ητ).

        So neither a schedule nor a tier's steps make devices look unlike; steps count as in FedNova. None where
        differences are not remembered, and for a reply that does not say its steps.
        """
        if self._sketcher is None or not self.of_differences:
            return None
        steps, optimiser = update.metrics.get("steps", 0.0), assignment.optimiser
        if not steps >= 1 or not optimiser.learning_rate > 0:
            return None
        pull = optimiser.learning_rate * (assignment.dynamic_alpha + optimiser.proximal)
        length = optimiser.learning_rate * effective_steps(steps, optimiser.momentum, pull)
        return self._sketcher.vector(update.part or assignment.part, update.difference) / np.float32(-length)

    def learn(self, outcome: RoundOutcome) -> None:
        """Note what the accepted replies of a round that counts said of their nodes."""
        for one in outcome.counted:
            node, tier = one.assignment.node.id, self._positions[one.assignment.tier]
            self.history.learn(node, one.assignment.asked_in or outcome.report.number, tier, one.metrics)
            if one.vector is not None:
                self.history.vectors[self.history.row(node)] = one.vector

    def checkpoint(self) -> Saved:
        """What the next selections depend on."""
        tensors, nodes = self.history.checkpoint()
        return tensors, {"nodes": nodes, "notes": self.notes}

    def restore(self, tensors: Mapping[str, Tensor], values: Any) -> None:
        """Take up a `checkpoint`."""
        self.history.restore(tensors, values["nodes"])
        self.notes = dict(values["notes"])

    def _chosen(self, selection: object, index: CandidateIndex) -> list[int]:
        """Positions of what a selector gave, which may be somebody else's."""
        if not isinstance(selection, Selection):
            what = f"a Selection, as candidates.selection(positions) makes one, not a {type(selection).__name__}"
            raise self._unfit(what)
        chosen: dict[int, NodeId] = {}
        for node in selection.nodes:
            if (at := index.find(node)) is None:
                raise self._unfit(f"ids of candidates; {node!r} is none")
            if at in chosen:
                raise self._unfit(f"every node once; {node!r} is there again, and weights say how much one counts")
            chosen[at] = node
        if selection.weights and len(selection.weights) != len(chosen):
            raise self._unfit(f"a weight for every node; there are {len(selection.weights)} for {len(chosen)}")
        return list(chosen)

    def _unfit(self, allowed: str) -> SettingError:
        return SettingError("selection", type(self._selector).__name__, f"a selector that gives {allowed}")

    def _count(self, nodes: int) -> int:
        return max(1, share_of(self._settings.fraction_train, nodes))

    def _asked(self, nodes: int) -> int:
        """How many are asked: with over-selection more than are needed."""
        return min(nodes, share_of(self._settings.over_selection, self._count(nodes)))

    def _candidates(self, index: CandidateIndex, number: int) -> Candidates:
        return KnownCandidates(
            index,
            self.history,
            planned=self._planned,
            guard=self._settings.guard.guard,
            round_number=number,
            batch_size=self._batch,
            notes=self.notes,
        )
