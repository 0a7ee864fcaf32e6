"""The base of every method: Flower's `Strategy` with a few hooks.

A method says which part a node gets (`plan`), what it optimises there (`objective`), how its reply weighs (`weigh`) and,
if it has one, its server step. Everything else is here: hello, selection, requests, folding replies as they arrive,
quorum and deadline. It runs in any Flower app:

    HeteroFL(network).start(grid, arrays, num_rounds=20)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from logging import INFO, WARNING
from math import ceil
from time import perf_counter
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from models.average import PartialAverage
from models.network import NetworkSpec, completed, layout, submodel
from models.plans import Plan
from models.randomness import generator
from models.submodel import flatten, split
from protocol import (
    EVALUATE,
    MOMENTS,
    STATE,
    STATISTICS,
    TRAIN,
    NodeId,
    Objective,
    PartRequest,
    Scalar,
    TrainRequest,
    WireError,
    bytes_of,
    decode,
    encode,
    record_of,
    state_of,
)
from strategies.exchange import exchange
from strategies.fleet import Fleet, Node
from strategies.guard import Accepted, Rejected, Rejection, content_of
from strategies.rounds import Coverage, Fold, RoundReport, Sent
from strategies.selection import Candidate
from strategies.settings import Settings
from strategies.tiers import Assignment, Tier


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a method's network looks like unless the user says otherwise.

    Attributes:
        norm: one of `models.norm.NORMS`.
        scaler: whether the Scaler is on.
        per_width: whether statistics are kept per tier's width (norm "batch-per-width").
    """

    norm: str = "static-batch"
    scaler: bool = False
    per_width: bool = False


class PartialStrategy(Strategy):
    """Trains one global network across nodes that each hold a part of it.

    Args:
        network: the global network; its defaults are filled in.
        settings: what does not depend on the method.
        options: the method's own settings by name; see `OPTIONS` of each method.

    Raises:
        SettingError: a setting that cannot be used.
        TypeError: an option that the method does not have.
    """

    OPTIONS: ClassVar[Mapping[str, Scalar]] = {}
    PREFERENCES: ClassVar[Preferences] = Preferences()
    BY_EXAMPLES: ClassVar[bool] = False

    def __init__(self, network: NetworkSpec, settings: Settings | None = None, **options: Scalar) -> None:
        self.network = completed(network)
        self.settings = settings or Settings()
        if unknown := set(options) - set(self.OPTIONS):
            raise TypeError(f"{type(self).__name__} has no option {sorted(unknown)}; it has {sorted(self.OPTIONS)}")
        self.options: dict[str, Scalar] = {**self.OPTIONS, **options}
        self.layout = layout(self.network)
        self.average = PartialAverage(self.layout)
        self.coverage = Coverage(self.average)
        self.fleet = Fleet()
        s = self.settings
        self._assignment = Assignment(s.tier_assignment, s.tiers, s.proportions, s.nodes, s.seed)
        self._shapes = {name: tensor.shape for name, tensor in self.layout.tensors.items()}
        self._flat = torch.zeros(self.layout.parameters)
        self.state: dict[str, Tensor] = split(self._flat, self._shapes)
        self._sent: list[Sent] = []
        self._report = RoundReport(0)
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

    def method_state(self) -> dict[str, Any]:
        """What the method remembers between rounds, as JSON."""
        return {}

    def restore_method_state(self, values: Mapping[str, Any]) -> None:
        """Take up `method_state` of a checkpoint."""
        del values

    # ---- one round ---------------------------------------------------------------------------------------------------

    def tier_of(self, node: Node, round_number: int) -> Tier:
        """The tier of a node in a round (see `Assignment.tier_of`)."""
        return self._assignment.tier_of(node.id, node.hello.tier, round_number)

    def run_round(self, grid: Grid, round_number: int) -> RoundReport:
        """Select, send, fold, finish. The new state is in `state`; an abandoned round leaves it as it was."""
        messages = self._requests(grid, round_number)
        report, began = self._report, perf_counter()
        if messages:
            fold = self._fold()
            exchange(grid, messages, fold.take, seconds=self.settings.deadline, odd=fold.odd)
            report.seconds["train"] = perf_counter() - began - report.seconds.get("fold", 0.0)
            self._finish(fold)
        else:
            report.abandoned = True
        return report

    def _requests(self, grid: Grid, round_number: int) -> list[Message]:
        began = perf_counter()
        report = self._report = RoundReport(round_number)
        nodes, report.rejected = self.fleet.greet(grid)
        report.seconds["hello"] = perf_counter() - began
        tiers = self._tiers(nodes, round_number)
        selected = self._select([node for node in nodes if node.id in tiers], tiers, round_number)
        report.selected = [node.id for node in selected]
        report.seconds["select"] = perf_counter() - began - report.seconds["hello"]
        whole = self._whole_state()
        slices: dict[Plan, ArrayRecord] = {}
        self._sent = []
        for node in selected:
            tier = tiers[node.id]
            plan = self.plan(node, tier, round_number)
            arrays = whole if self.settings.slice_at == "client" else self._slice(plan, slices)
            request = TrainRequest(
                **self._common(round_number, node.id, plan),
                objective=self.objective(tier),
                optimiser=self.settings.schedule.optimiser(round_number),
                codec=self.settings.codec,
            )
            message = _message(request, arrays, TRAIN, node.address)
            part = submodel(self.network, plan)
            self._sent.append(Sent(node, tier.name, plan, part, request.nonce, message, bytes_of(arrays)))
        report.bytes_down = sum(sent.bytes_down for sent in self._sent)
        report.seconds["plan"] = perf_counter() - began - report.seconds["hello"] - report.seconds["select"]
        return [sent.message for sent in self._sent]

    def _tiers(self, nodes: Sequence[Node], round_number: int) -> dict[NodeId, Tier]:
        """Tier of every node that can take part."""
        tiers = {}
        for node in nodes:
            try:
                tier = self.tier_of(node, round_number)
            except ValueError as error:
                self._report.rejected.append(Rejection(node.id, str(error)))
                continue
            if self.eligible(tier):
                tiers[node.id] = tier
        return tiers

    def _select(self, nodes: Sequence[Node], tiers: Mapping[NodeId, Tier], round_number: int) -> list[Node]:
        if not nodes:
            return []
        candidates = [
            Candidate(n.id, tiers[n.id].name, n.hello.examples, n.last_loss, n.last_round, n.last_seconds) for n in nodes
        ]
        count = min(len(nodes), max(1, ceil(self.settings.fraction_train * len(nodes))))
        draws = generator(self.settings.seed, round_number, "server", "select")
        chosen = self.settings.selector.select(candidates, count, draws, _no_probe)
        by_id = {node.id: node for node in nodes}
        return [by_id[node] for node in chosen]

    def _common(self, round_number: int, node: NodeId, plan: Plan) -> dict[str, Any]:
        s = self.settings
        nonce = f"{s.seed}-{round_number}-{node}"
        return {
            "round_number": round_number, "nonce": nonce, "seed": s.seed, "network": self.network, "plan": plan,
            "sliced": s.slice_at == "server", "work": s.work,
        }  # fmt: skip

    def _whole_state(self) -> ArrayRecord:
        return ArrayRecord({STATE: encode(self._flat)}) if self.settings.slice_at == "client" else ArrayRecord()

    def _slice(self, plan: Plan, made: dict[Plan, ArrayRecord]) -> ArrayRecord:
        """The part as one array; nodes with the same plan share it."""
        if plan not in made:
            part = submodel(self.network, plan)
            made[plan] = ArrayRecord({STATE: encode(flatten(part.gather(self.state)))})
        return made[plan]

    def _fold(self) -> Fold:
        number = self._report.number
        return Fold(
            self.average, self._report, self._sent, self.settings.codec,
            lambda sent, reply: self.weigh(sent, reply, number), self.rows,
        )  # fmt: skip

    def _finish(self, fold: Fold) -> None:
        report, began = self._report, perf_counter()
        if fold.enough(self.settings.quorum):
            self.average.finish(self.state, out=self.state)
            report.coverage = self.coverage.count()
        else:
            report.abandoned = True
        report.seconds["finish"] = perf_counter() - began

    # ---- statistics and local evaluation -----------------------------------------------------------------------------

    def statistics(self, grid: Grid, round_number: int, wanted: Sequence[Tier]) -> dict[str, Tensor]:
        """Ask nodes for the moments of static batch norm in the part that each tier keeps.

        A node is asked only for the tier it is in. Wider nodes stand in for a tier that has none of its own, because
        they can hold its part.

        Returns:
            tier name → pooled moments (float64); tiers that nobody could answer for are absent.
        """
        nodes, _ = self.fleet.greet(grid)
        tiers: dict[NodeId, Tier] = {}
        for node in nodes:
            try:
                tiers[node.id] = self.tier_of(node, round_number)
            except ValueError:
                continue
        asked: list[tuple[Tier, str, Message]] = []
        made: dict[Plan, ArrayRecord] = {}
        whole = self._whole_state()
        for tier in wanted:
            able = [node for node in nodes if node.id in tiers and tiers[node.id].rate >= tier.rate]
            own = [node for node in able if tiers[node.id].rate == tier.rate] or able
            plan = self.kept_plan(tier, round_number)
            for node in own:
                request = PartRequest(**self._common(round_number, node.id, plan))
                arrays = whole if self.settings.slice_at == "client" else self._slice(plan, made)
                asked.append((tier, request.nonce, _message(request, arrays, STATISTICS, node.address)))
        pooled: dict[str, Tensor] = {}

        def take(i: int, message: Message | None) -> None:
            tier, nonce, _ = asked[i]
            try:
                reply = content_of(message, nonce, MOMENTS)
                assert reply.array is not None  # content_of asked for one
                moments = decode(reply.array, reply.array.shape[0] if reply.array.shape else 0, "float64")
            except (Rejected, WireError):
                return
            known = pooled.get(tier.name)
            if moments.isfinite().all() and (known is None or known.shape == moments.shape):
                pooled[tier.name] = moments.clone() if known is None else known + moments

        exchange(grid, [message for _, _, message in asked], take, seconds=self.settings.deadline)
        return pooled

    def evaluate_round(self, grid: Grid, round_number: int) -> dict[str, float]:
        """Have a share of the nodes score their tier's part on their own test examples; weighted means."""
        replies: list[Message] = []
        messages = self._evaluation_requests(grid, round_number)
        exchange(
            grid, messages, lambda _, reply: replies.append(reply) if reply else None, seconds=self.settings.deadline
        )
        return self._local_scores(replies)

    def _evaluation_requests(self, grid: Grid, round_number: int) -> list[Message]:
        share = self.settings.fraction_evaluate
        if not share:
            return []
        nodes, _ = self.fleet.greet(grid)
        tiers = self._tiers(nodes, round_number)
        able = [node for node in nodes if node.id in tiers]
        count = min(len(able), ceil(share * len(able)))
        draws = generator(self.settings.seed, round_number, "server", "evaluate")
        chosen = [able[i] for i in sorted(draws.choice(len(able), count, replace=False))] if able else []
        whole, made, messages = self._whole_state(), dict[Plan, ArrayRecord](), []
        for node in chosen:
            plan = self.kept_plan(tiers[node.id], round_number)
            arrays = whole if self.settings.slice_at == "client" else self._slice(plan, made)
            request = PartRequest(**self._common(round_number, node.id, plan))
            messages.append(_message(request, arrays, EVALUATE, node.address))
        return messages

    @staticmethod
    def _local_scores(replies: Iterable[Message]) -> dict[str, float]:
        sums: dict[str, float] = {}
        total = 0.0
        for message in replies:
            if message.has_error() or "metrics" not in message.content.metric_records:
                continue
            metrics = message.content.metric_records["metrics"]
            examples = metrics.get("num-examples", 0)
            if not isinstance(examples, int | float) or examples <= 0:
                continue
            total += examples
            for key in ("loss", "accuracy", "accuracy-own-labels"):
                value = metrics.get(key, 0.0)
                sums[key] = sums.get(key, 0.0) + examples * (value if isinstance(value, int | float) else 0.0)
        return {key: value / total for key, value in sums.items()} if total else {}

    # ---- Flower's interface ------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Requests of a round, for Flower's own loop; `start` does not need it."""
        self.load(arrays)
        messages = self._requests(grid, server_round)
        for message in messages:
            _add_config(message, config)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold the replies to `configure_train`; (None, None) when the round is abandoned."""
        fold = self._fold()
        by_request = {reply.metadata.reply_to_message_id: reply for reply in replies}
        for i, sent in enumerate(self._sent):
            fold.take(i, by_request.pop(sent.message.metadata.message_id, None))
        for reply in by_request.values():
            fold.odd(reply, "unknown")
        self._finish(fold)
        if self._report.abandoned:
            return None, None
        return record_of(self.state), self._train_metrics()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Requests to evaluate locally, for Flower's own loop."""
        del arrays  # the state is this strategy's own
        messages = self._evaluation_requests(grid, server_round)
        for message in messages:
            _add_config(message, config)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Weighted means of the local scores."""
        del server_round
        scores = self._local_scores(replies)
        return MetricRecord(dict(scores)) if scores else None

    def summary(self) -> None:
        """Log one line."""
        tiers = ", ".join(f"{tier.name}={tier.rate}" for tier in self.settings.tiers)
        log(INFO, "%s on %s (%s parameters), tiers %s", type(self).__name__, self.network.name, f"{self.layout.parameters:,}", tiers)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        *,
        first_round: int = 1,
        after_round: Callable[[RoundReport], None] | None = None,
    ) -> Result:
        """Run rounds `first_round` to `num_rounds`; the ordinary signature of Flower's strategies, and a little more.

        Args:
            grid: where the nodes are.
            initial_arrays: the global state before `first_round`, one array per tensor.
            num_rounds: the last round.
            timeout: seconds a round waits for replies, if shorter than `settings.deadline`.
            train_config: not used; what clients need is in their typed requests.
            evaluate_config: not used, likewise.
            evaluate_fn: called before the first round and after every round, as Flower does.
            first_round: where to go on (with a restored state).
            after_round: called with every round's report, after local evaluation.

        Returns:
            Flower's result: final arrays and metrics by round.

        Raises:
            WireError: the arrays do not fit the network.
            NotEnoughNodes: too few nodes came.
        """
        del train_config, evaluate_config
        self.load(initial_arrays)
        self.summary()
        result = Result(arrays=initial_arrays)
        if evaluate_fn and (metrics := evaluate_fn(first_round - 1, initial_arrays)) is not None:
            result.evaluate_metrics_serverapp[first_round - 1] = metrics
        s = self.settings
        online = self.fleet.wait(grid, s.nodes, s.min_nodes, s.node_wait)
        if online < s.nodes:
            log(
                WARNING, "%d of %d nodes are online: use `flotilla run`, or --federation-config 'num-supernodes=%d'",
                online, s.nodes, s.nodes,
            )  # fmt: skip
        for round_number in range(first_round, num_rounds + 1):
            report = self.run_round(grid, round_number)
            began = perf_counter()
            report.local = self.evaluate_round(grid, round_number)
            report.seconds["local evaluation"] = perf_counter() - began
            if report.accepted:
                result.train_metrics_clientapp[round_number] = self._train_metrics()
            if report.local:
                result.evaluate_metrics_clientapp[round_number] = MetricRecord(dict(report.local))
            if evaluate_fn and (metrics := evaluate_fn(round_number, record_of(self.state))) is not None:
                result.evaluate_metrics_serverapp[round_number] = metrics
            if after_round is not None:
                after_round(report)
        result.arrays = record_of(self.state)
        return result

    # ---- state -------------------------------------------------------------------------------------------------------

    def load(self, arrays: ArrayRecord) -> None:
        """Take a state; the buffers stay."""
        for name, tensor in state_of(arrays, self._shapes).items():
            self.state[name].copy_(tensor)

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

    def _train_metrics(self) -> MetricRecord:
        report = self._report
        return MetricRecord({"train-loss": report.train_loss or 0.0, "accepted": report.accepted})

    def _check(self) -> None:
        """Make every tier's part once, so that a plan that cannot be is found before anything starts."""
        for tier in self.settings.tiers:
            submodel(self.network, self.kept_plan(tier, 1))


def _message(request: PartRequest, arrays: ArrayRecord, kind: str, address: int) -> Message:
    return Message(
        content=request.to_record(arrays), message_type=kind, dst_node_id=address, group_id=str(request.round_number)
    )


def _add_config(message: Message, config: ConfigRecord) -> None:
    """Add what the caller of Flower's loop wants clients to read; our own fields win."""
    own = message.content.config_records["config"]
    for key, value in config.items():
        own.setdefault(key, value)


def _no_probe(nodes: Sequence[NodeId]) -> Mapping[NodeId, Mapping[str, float]]:
    """No selector here asks candidates before deciding."""
    raise NotImplementedError(f"probing {len(nodes)} candidates")


__all__ = ["PartialStrategy", "Preferences", "RecordDict"]
