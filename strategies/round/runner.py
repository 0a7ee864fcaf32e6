"""A round, from hello to report, on one page.

A runner has a method, which says what a node trains and what its reply counts (`strategies.method`), and the pieces
that remember something (`strategies.round.pieces`). It knows no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from time import perf_counter
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from models.algebra.rates import share_of
from models.networks.build import layout
from models.networks.spec import NetworkSpec
from protocol import NodeId
from strategies.aggregation.global_state import GlobalState
from strategies.context import RoundContext
from strategies.exchange.fleet import in_tiers
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.method import Method
from strategies.round.aggregator import RoundAggregator
from strategies.round.assignments import Round, assigned, parts_of_round
from strategies.round.batchnorm_statistics import ask_statistics
from strategies.round.checks import check
from strategies.round.cluster_identities import ask_identities
from strategies.round.federated_evaluation import ScoreRequest, ask_scores, score_requests
from strategies.round.pieces import Pieces
from strategies.round.requests import StateCache, train_request
from strategies.round.secure_sums import SecureSums
from strategies.round.server_step import ServerStep
from strategies.round.training import ask_training
from strategies.settings import Settings
from strategies.tiers.tier import Tier

Amend = Callable[[list[Message]], list[Message]]


class Runner:
    """Trains one global network across nodes that each hold a part of it, by a method.

    Args:
        method: what is trained by.
        network: the global network; its defaults are filled in.
        settings: what does not depend on the method.

    Attributes:
        method, settings: see above.
        network: as the method needs it.
        layout: declaration of the network's whole state.
        pieces: everything that is remembered from round to round.
        round: the round under way, or the last one.
        saved_round: newest round that a checkpoint can bring back; whoever saves one says so.
        left_out: nodes whose replies are not used → the round after which that was decided.

    Raises:
        SettingError: a setting that cannot be used.
        ValueError: a tier whose part leaves a layer empty.
    """

    def __init__(self, method: Method, network: NetworkSpec, settings: Settings) -> None:
        self.method, self.settings = method, settings
        self.network = method.fitted(network, settings, method.options)
        self.layout = layout(self.network)
        self.saved_round = 0
        self.left_out: Mapping[NodeId, int] = {}
        self._seconds = settings.wait
        self.pieces = Pieces(method, self.context(1))
        check(method, self.context(1))
        self._able = [tier for tier in settings.tiers if method.eligible(self.context(1), tier)]
        self.round = Round(context=self.context(1), report=RoundReport(number=0))
        self._step = ServerStep(method, self.context(1), self.pieces)

    def context(self, round_number: int) -> RoundContext:
        """What hooks are told of a round."""
        return RoundContext(
            round_number=round_number,
            settings=self.settings,
            network=self.network,
            layout=self.layout,
            saved_round=self.saved_round,
        )

    @property
    def main(self) -> GlobalState:
        """The global state; of several, that of the largest cluster."""
        return self.pieces.clusters.states[self.pieces.clusters.main]

    # ---- a round -----------------------------------------------------------------------------------------------------

    def run_round(
        self,
        grid: Grid,
        number: int,
        *,
        seconds: float | None = None,
        amend: Amend | None = None,
        amend_scoring: Amend | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> RoundReport:
        """Run a round. An abandoned one leaves the state as it was.

        Args:
            grid: where the nodes are.
            number: of the round, 1-based.
            seconds: how long to wait for replies; None is as long as the settings say.
            amend: what else becomes of training requests before they are sent; None: nothing.
            amend_scoring: the same, of requests to score on a node's own data.
            meanwhile: called once training requests are sent, before any reply is taken; changes no state.
        """
        self.begin(grid, number)
        if amend is not None:
            self.round.messages = amend(self.round.messages)
        seconds, report = self._seconds if seconds is None else seconds, self.round.report
        self.finish(
            ask_training(grid, self.round, method=self.method, pieces=self.pieces, seconds=seconds, meanwhile=meanwhile)
        )
        began = perf_counter()
        ask_scores(
            grid,
            self.score_requests(grid, number),
            report,
            patience=self.pieces.patience,
            amend=amend_scoring,
            seconds=seconds,
            guard=self.settings.guard,
        )
        report.seconds["local evaluation"] = perf_counter() - began
        return report

    def begin(self, grid: Grid, number: int) -> None:
        """Hello, select, plan, request: what nodes are asked is in `round` then."""
        context, report, pieces = self.context(number), RoundReport(number=number), self.pieces
        self.round = Round(context=context, report=report, left_out=self.left_out)
        began = perf_counter()
        nodes, tiers = pieces.nodes.of(grid, number, report)
        everybody = len(tiers) == len(nodes) and len(self._able) == len(self.settings.tiers)
        able = nodes if everybody else in_tiers(self._able, nodes, tiers)  # the same list while nothing changes
        greeted = perf_counter()
        if number == 1:
            pieces.clusters.start(lambda: self._identities(grid, context, able, tiers))
        pieces.begin(number)
        states = self.states(context)
        chosen = pieces.selection.choose(
            grid,
            context,
            method=self.method,
            states=states,
            nodes=able if pieces.buffer is None else pieces.buffer.free(able),
            tiers=tiers,
            patience=pieces.patience,
            report=report,
            count=None if pieces.buffer is None else pieces.buffer.room,
        )
        selected = perf_counter()
        asked = pieces.clusters.participants(chosen, tiers, number)
        self.round.assignments = assigned(context, asked, method=self.method, states=states, pieces=pieces, nodes=nodes)
        if pieces.clusters.WATCHES:
            pieces.clusters.expect(self.round.assignments)
        if self.settings.secure.secure_aggregation:
            self.round.secure = SecureSums(grid, context, method=self.method, patience=pieces.patience, report=report)
            self.round.assignments = self.round.secure.prepare(self.round.assignments)
        requests = [train_request(context, one, states) for one in self.round.assignments]
        self.round.messages, self.round.bytes_down = [one for one, _ in requests], [size for _, size in requests]
        report.bytes_down = sum(self.round.bytes_down)
        planning = perf_counter() - selected - report.seconds.get("keys", 0.0)
        report.seconds |= {"hello": greeted - began, "select": selected - greeted, "plan": planning}

    def finish(self, aggregator: RoundAggregator) -> None:
        """End the round: the new states, or none for want of replies; every piece learns of it."""
        context, report, clusters = self.round.context, self.round.report, self.pieces.clusters
        aggregator.release()
        if self.round.secure is not None:
            self.round.secure.open(aggregator)
        began = perf_counter()
        quorum = share_of(self.settings.quorum, report.wanted or len(self.round.assignments))
        report.abandoned = report.accepted < max(1, quorum)
        if not report.abandoned:
            self._step.count_missing(self.main, aggregator.missing)
            clusters.close(aggregator.accepted, context.round_number)
            for number, state in clusters.states.items():
                if accepted := clusters.step_of(number, aggregator.accepted):
                    self._step.take(context, state, accepted)
            covered = [state.coverage.count() for state in clusters.states.values()]
            report.coverage = {key: fmean(one[key] for one in covered) for key in covered[0]}
        self.pieces.learn(aggregator.outcome)
        report.seconds["finish"] = perf_counter() - began

    # ---- parts of it -------------------------------------------------------------------------------------------------

    def states(self, context: RoundContext, *, only: int | None = None) -> StateCache:
        """What messages about the present states carry: what each node is sent, or one cluster's state for all."""
        return StateCache(context, self.method, self.pieces.clusters, downlink=self.pieces.downlink, only=only)

    def _identities(
        self, grid: Grid, context: RoundContext, nodes: Sequence[Node], tiers: Mapping[NodeId, Tier]
    ) -> list[tuple[int, float]]:
        """Ask nodes, before round 1, which initial state suits them; what is planned for it is not given out."""
        asked = self.pieces.clusters.participants([(node, 1.0) for node in nodes], tiers, context.round_number)
        plans, _ = parts_of_round(self.method, context, self.pieces.memory.values, asked)
        states, clusters = self.states(context), len(self.pieces.clusters.states)
        return ask_identities(
            grid,
            context,
            states=states,
            nodes=nodes,
            plans=plans,
            clusters=clusters,
            patience=self.pieces.patience,
            report=self.round.report,
        )

    # ---- questions beside training -----------------------------------------------------------------------------------

    def statistics(
        self, grid: Grid, number: int, wanted: Sequence[Tier], *, cluster: int | None = None
    ) -> dict[str, Tensor]:
        """Moments of static batch norm by tier, pooled over the nodes (see `ask_statistics`).

        Args:
            grid: where the nodes are.
            number: of the round.
            wanted: tiers asked about.
            cluster: whose state, and whose nodes are asked; None: the main one's.
        """
        context, clusters = self.context(number), self.pieces.clusters
        cluster = clusters.main if cluster is None else cluster
        nodes, tiers = self.pieces.nodes.of(grid, number)
        return ask_statistics(
            grid,
            context,
            method=self.method,
            states=self.states(context, only=cluster),
            nodes=clusters.known_in(cluster, nodes),
            tiers=tiers,
            wanted=wanted,
            patience=self.pieces.patience,
            report=self.round.report,
        )

    def score_requests(self, grid: Grid, number: int) -> list[ScoreRequest]:
        """Requests to score the states on the nodes' own test examples; none if that is off."""
        if not self.settings.fraction_evaluate:
            return []
        context = self.context(number)
        nodes, tiers = self.pieces.nodes.of(grid, number)
        states, history = self.states(context), self.pieces.selection.history
        return score_requests(context, method=self.method, states=states, nodes=nodes, tiers=tiers, history=history)

    # ---- files -------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next rounds depend on: tensors and JSON values."""
        return self.pieces.checkpoint()

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a `checkpoint`."""
        self.pieces.restore(tensors, values)

    def final_state(self) -> dict[str, Tensor]:
        """The main state by name and, where there are several, every cluster's under "cluster<number>/"."""
        clusters = self.pieces.clusters
        several = clusters.states if len(clusters.states) > 1 else {}
        return dict(self.main.tensors) | {
            clusters.saved_name(number) + name: tensor
            for number, state in several.items()
            for name, tensor in state.tensors.items()
        }
