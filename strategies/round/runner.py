"""The base of every method: Flower's `Strategy` with a few hooks.

A method says which part a node gets (`plan`), what it optimises there (`objective`), how its reply weighs (`weigh`),
and which part a device keeps in the end (`kept_plan`). Everything else is here: hello, selection, requests, folding
replies as they arrive, quorum. It runs in any Flower app:

    HeteroFL(network).start(grid, arrays, num_rounds=20)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from logging import INFO, WARNING
from statistics import fmean
from time import perf_counter
from typing import Any

import torch
from flwr.app import ArrayRecord
from flwr.common import log
from flwr.serverapp import Grid
from torch import Tensor

from models.algebra.submodel import Submodel, split
from models.errors import SettingError
from models.networks.build import initial_state, submodel
from models.networks.spec import NetworkSpec
from models.randomness import generator, torch_generator
from protocol import NodeId, Scalar
from strategies.aggregation.feddyn import FedDynCorrection
from strategies.aggregation.global_state import GlobalState
from strategies.clustering.base import Basis
from strategies.clustering.options import clustering
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.update import AcceptedUpdate, ClientUpdate
from strategies.method import Method
from strategies.nodes.availability import Availability
from strategies.nodes.manager import NodeManager
from strategies.nodes.requirements import TierRequirements
from strategies.robustness.norm_bounds import NormBounds
from strategies.robustness.privacy import Privacy, check
from strategies.round.aggregator import RoundAggregator, UpdateTarget
from strategies.round.batchnorm_statistics import ask_statistics
from strategies.round.cluster_identities import ask_identities
from strategies.round.federated_evaluation import ScoreRequest, score_requests
from strategies.round.requests import RequestFactory
from strategies.round.selection import SelectionRunner
from strategies.settings import Settings
from strategies.tiers.tier import Tier, share_of
from strategies.transport.downlink import Downlink
from strategies.transport.uplink import UplinkDecoder
from strategies.virtual.clock import VirtualClock


class PartialStrategy(Method):
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

    def __init__(self, network: NetworkSpec, settings: Settings | None = None, **options: Scalar) -> None:
        super().__init__(network, settings, options)
        self.clusters = clustering(self.settings.clustering, self._basis())
        self._turn_to(self.clusters.main)
        self.fleet = NodeManager(labels=self.needs_labels())
        self.chooser = SelectionRunner(self.settings, self.layout)
        self.decoding = UplinkDecoder(self.settings.codec, self.layout, self.settings.nodes)
        self.downlink = Downlink(self.settings.codec_down, self.layout, self.settings.seed)
        self.limits, guard = NormBounds(self.settings.guard), self.settings.guard
        self.privacy = Privacy(guard, self.settings.nodes) if guard.dp_noise else None
        self.report, self.sent = RoundReport(number=0), []
        self.saved_round = 0  # newest round that a checkpoint can bring back
        s = self.settings
        refines = self._dynamic is not None or type(self).refine is not PartialStrategy.refine
        self._before = torch.empty_like(self._flat) if refines else None
        self._check()
        whole, batch = s.slice_at == "client", s.work.batch_size
        self.clock: VirtualClock | None = None
        if s.fleet is not None:
            self.clock = VirtualClock(
                s.fleet, self.network, nodes=s.nodes, seed=s.seed, deadline=s.deadline, batch_size=batch, whole=whole
            )
        self.members = Availability(
            s, self.fleet, lambda: TierRequirements(self.network, s, self.kept_plan, self.objective), self.clock
        )

    # ---- states ------------------------------------------------------------------------------------------------------

    def _basis(self) -> Basis:
        """What clusters are made of."""
        s, network = self.settings, self.network

        def make() -> GlobalState:
            alpha = s.dynamic_alpha
            dynamic = FedDynCorrection(alpha, self.layout, s.nodes, s.dynamic_scaling) if alpha else None
            return GlobalState(self.layout, s.guard.average(self.layout, per_coordinate=self.PER_COORDINATE), dynamic)

        def draw(purpose: str) -> Mapping[str, Tensor]:
            return initial_state(network, torch_generator(s.seed, 0, "server", purpose))

        def rate(number: int) -> float:
            return s.schedule.optimiser(number).learning_rate

        return Basis(layout=self.layout, make=make, draw=draw, seed=s.seed, learning_rate=rate, noisy=s.codec.noisy)

    def _turn_to(self, cluster: int) -> None:
        """Make a cluster's state the one that `state`, `average` and `coverage` are about, and every hook."""
        chosen = self.clusters.states[cluster]
        self.state, self._flat = chosen.tensors, chosen.flat
        self.average, self.coverage, self._dynamic = chosen.average, chosen.coverage, chosen.dynamic

    def load(self, arrays: ArrayRecord) -> None:
        """Take a state, which becomes the main cluster's; see `FlowerStrategy.load`."""
        super().load(arrays)
        self.clusters.loaded(self.clusters.main)

    # ---- one round ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Find what cannot be before anything starts."""
        s = self.settings
        check(s, by_examples=self.BY_EXAMPLES, label_rows=self.needs_labels(), norm=self.network.norm)
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
        report = self.report = RoundReport(number=round_number)
        outbox, marks = self.outbox(round_number), [perf_counter()]
        nodes, tiers = self.members.of(grid, round_number, report)
        marks.append(perf_counter())
        taking_part = self._taking_part(nodes, tiers)
        if round_number == 1:
            self._begin(grid, taking_part, tiers)
        chosen = self.chooser.choose(grid, outbox, taking_part, tiers, self.kept_plan, self.objective, report)
        marks.append(perf_counter())
        self.downlink.begin(self._flat, round_number)
        self.sent = []
        for node, weight in chosen:
            tier = tiers[node.id]
            plan = self.plan(node, tier, self.clusters.plan_round(node.id, round_number))
            objective, counted = self.objective(tier, round_number), self.chooser.counted(node.id)
            self.sent.append(outbox.train(node, tier, plan, objective, weight, counted))
        self.clusters.begin(self.sent)
        report.bytes_down = sum(sent.bytes_down for sent in self.sent)
        marks.append(perf_counter())
        for phase, began, ended in zip(("hello", "select", "plan"), marks, marks[1:], strict=False):
            report.seconds[phase] = ended - began

    def _begin(self, grid: Grid, nodes: Sequence[Node], tiers: Mapping[NodeId, Tier]) -> None:
        """Let the clusters ask the nodes, before round 1, how its initial states suit them."""

        def ask() -> list[tuple[int, float]]:
            drawn = self.method_state()
            plans = [self.plan(node, tiers[node.id], 1) for node in nodes]
            self.restore_method_state(drawn)  # what was asked about is not what was given out
            outbox, count, seconds = self.outbox(1), len(self.clusters.states), self.settings.wait
            return ask_identities(grid, outbox, nodes, plans, count, seconds, self.report)

        self.clusters.start(ask)

    def fold(self) -> RoundAggregator:
        """What takes the replies to `sent`."""
        number = self.report.number
        for state in self.clusters.states.values():
            state.average.reset()
        self.limits.begin()
        if self.clock is not None:
            self.clock.begin()
        return RoundAggregator(
            self._place,
            self.report,
            sent=self.sent,
            decoding=self.decoding,
            weigh=lambda s, r: self.weigh(s, r, number),
            labels=self.rows,
            vector=self.chooser.vector,
            note=self.clusters.note,
            limits=self.limits,
            clock=self.clock,
        )

    def _place(self, sent: TrainAssignment, reply: ClientUpdate) -> UpdateTarget:
        """The average of the cluster that a reply changes."""
        cluster = self.clusters.place(sent, reply)
        if cluster is None:
            return UpdateTarget(None, sent.part, None)
        state = self.clusters.states[cluster]
        several = len(self.clusters.offered(sent.node.id)) > 1  # then it was not known which one it would take
        part = self.part(sent.plan, state.tensors) if several else sent.part
        return UpdateTarget(state.average, part, cluster)

    def conclude(self, fold: RoundAggregator) -> None:
        """The new state, or none for want of replies."""
        began = perf_counter()
        self.report.guard = self.limits.report()
        self.limits.close()
        if fold.enough(self.settings.quorum):
            if self.privacy is not None:  # who did not reply counts as a difference of zero
                for sent in fold.missing:
                    self.average.add(sent.part, torch.zeros(sent.part.numel))
            self.chooser.learn(fold.learnt, self.report.number)
            for one in fold.learnt:
                self.decoding.keep(one.sent.node.id, one.sent.part, one.remember)
            self.clusters.close(fold.learnt, self.report.number)
            covered = []
            for cluster in self.clusters.states:
                self._turn_to(cluster)
                if learnt := self.clusters.learnt_by(cluster, fold.learnt):
                    self._step(learnt)
                covered.append(self.coverage.count())
            self.report.coverage = {key: fmean(one[key] for one in covered) for key in covered[0]}
            self.clusters.settle()
            self.report.clusters = self.clusters.report(fold.learnt)
        else:
            self.report.abandoned = True
        if self.privacy is not None:
            self.report.guard |= self.privacy.report()
        self._turn_to(self.clusters.main)
        self.members.learn(fold)
        if self.clock is not None:
            self.report.virtual = self.clock.end()
        self.report.seconds["finish"] = perf_counter() - began

    def _step(self, learnt: Sequence[AcceptedUpdate]) -> None:
        """Average what a cluster's nodes replied into its state."""
        if self._before is not None:
            self._before.copy_(self._flat)
        number, least = self.report.number, self.settings.guard.min_cover
        self.average.finish(self.state, out=self.state, scale=self.scale(learnt, number), least=least)
        if self.privacy is not None:
            numerator, denominator = self.weigh(learnt[0].sent, ClientUpdate.nothing(), number)
            self.privacy.add_noise(self.state, self.average, numerator / denominator, number)
        if self._before is not None:
            before = split(self._before, {name: tensor.shape for name, tensor in self.state.items()})
            if self._dynamic is not None:
                self._dynamic.correct(self.state, before, self.average, lambda: self._able(before))
            self.refine(before)

    def _able(self, state: Mapping[str, Tensor]) -> list[tuple[Submodel, int]]:
        """The parts of a state that the present nodes can hold, and how many of them hold each."""
        number, (nodes, tiers) = self.members.number, self.members.present
        plans = Counter(self.kept_plan(tiers[node.id], number) for node in nodes if node.id in tiers)
        return [(self.part(plan, state), count) for plan, count in plans.items()]

    def outbox(self, round_number: int, cluster: int | None = None) -> RequestFactory:
        """Messages about the present states: what each node is offered, or the same cluster's for all."""
        clusters, part = self.clusters, self.part
        return RequestFactory(
            self.network,
            self.settings,
            clusters=clusters,
            round_number=round_number,
            part=part,
            decoding=self.decoding,
            downlink=self.downlink,
            checkpoint=self.saved_round,
            cluster=cluster,
        )

    def _taking_part(self, nodes: list[Node], tiers: Mapping[NodeId, Tier]) -> list[Node]:
        """The nodes whose tier takes part; the same list as long as nothing changes."""
        if len(tiers) == len(nodes) and all(self.eligible(tier) for tier in self.settings.tiers):
            return nodes
        return [node for node in nodes if node.id in tiers and self.eligible(tiers[node.id])]

    # ---- surveys -----------------------------------------------------------------------------------------------------

    def statistics(self, grid: Grid, round_number: int, wanted: Sequence[Tier]) -> dict[str, Tensor]:
        """Moments of static batch norm by tier, pooled over the nodes (see `surveys.ask_statistics`)."""
        nodes, tiers = self.members.of(grid, round_number)
        kept = {tier: self.kept_plan(tier, round_number) for tier in wanted}
        main, seconds = self.clusters.main, self.settings.wait
        nodes = [node for node in nodes if self.clusters.assigned(node.id) == main] or nodes
        outbox = self.outbox(round_number, main)
        return ask_statistics(
            grid,
            self.network,
            outbox,
            nodes,
            tiers,
            kept,
            lambda tier: self.kept_plan(tier, round_number),
            self.can_hold,
            seconds,
            self.report,
        )

    def score_requests(self, grid: Grid, round_number: int) -> list[ScoreRequest]:
        """Requests to a share of the nodes to score their tier's part on their own test examples."""
        if not self.settings.fraction_evaluate:
            return []
        nodes, tiers = self.members.of(grid, round_number)
        able = [node for node in nodes if node.id in tiers]
        count = share_of(self.settings.fraction_evaluate, len(able))
        draws = generator(self.settings.seed, round_number, "server", "evaluate")
        chosen = [able[i] for i in sorted(draws.choice(len(able), count, replace=False))] if able else []
        kept = {tier.name: self.kept_plan(tier, round_number) for tier in self.settings.tiers}
        return score_requests(self.outbox(round_number), chosen, tiers, kept)

    def summary(self) -> None:
        """Log one line, and one for every doubt about the settings."""
        tiers = ", ".join(f"{tier.name}={tier.rate}" for tier in self.settings.tiers)
        size = f"{self.layout.parameters:,}"
        log(INFO, "%s on %s (%s parameters), tiers %s", type(self).__name__, self.network.name, size, tiers)
        for line in self.settings.doubts():
            log(WARNING, line)

    # ---- checkpoint --------------------------------------------------------------------------------------------------

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next rounds depend on: tensors and JSON values."""
        tensors, clusters = self.clusters.checkpoint()
        for number, state in self.clusters.states.items():
            tensors |= {self._saved(number) + name: tensor for name, tensor in state.checkpoint().items()}
        known, values = self.chooser.checkpoint()
        kept, rows = self.decoding.checkpoint()
        sent, down = self.downlink.checkpoint()
        return tensors | known | kept | sent, {
            "method": self.method_state(),
            "selection": values,
            "clusters": clusters,
            "codec": rows,
            "codec-down": down,
            "limits": self.limits.checkpoint(),
            "tiers": self.members.checkpoint(),
            "clock": None if self.clock is None else self.clock.checkpoint(),
            "privacy": None if self.privacy is None else self.privacy.checkpoint(),
        }

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up a `checkpoint`."""
        self.clusters.restore(tensors, values["clusters"])
        for number, state in self.clusters.states.items():
            before = self._saved(number)
            state.restore({k.removeprefix(before): tensor for k, tensor in tensors.items() if k.startswith(before)})
        self._turn_to(self.clusters.main)
        self.restore_method_state(values["method"])
        self.chooser.restore(tensors, values["selection"])
        self.decoding.restore(tensors, values["codec"])
        self.downlink.restore(tensors, values["codec-down"])
        self.limits.restore(values["limits"])
        self.members.restore(values["tiers"])
        if self.clock is not None:
            self.clock.restore(values["clock"])
        if self.privacy is not None:
            self.privacy.restore(values["privacy"])

    def _saved(self, cluster: int) -> str:
        """What the names of a cluster's tensors begin with in files; nothing where there is one state."""
        return f"cluster{cluster}/" if len(self.clusters.states) > 1 else ""

    def final_state(self) -> dict[str, Tensor]:
        """The main state by name and, where there are several, every cluster's under "cluster<number>/"."""
        states = {} if len(self.clusters.states) == 1 else self.clusters.states
        return dict(self.state) | {
            self._saved(number) + name: tensor
            for number, state in states.items()
            for name, tensor in state.tensors.items()
        }
