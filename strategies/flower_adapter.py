"""Flower's `Strategy` interface on top of ours.

`start` has its ordinary signature; the four methods that Flower's own loop calls work as well.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from logging import WARNING
from time import perf_counter

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from models.device import threads
from protocol import bytes_of, record_of, state_of
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.messaging import WaitTimes, exchange
from strategies.exchange.report import LocalScore, RoundReport
from strategies.nodes.manager import NodeManager, NotEnoughNodes
from strategies.round.aggregator import RoundAggregator
from strategies.round.federated_evaluation import ScoreRequest, mean_scores, read_score
from strategies.settings import Settings

EvaluateFunction = Callable[[int, ArrayRecord], MetricRecord | None]


class NothingLearnt(RuntimeError):
    """No round, or for too long none, had the replies it needed."""


class FlowerStrategy(Strategy):
    """The rounds; what happens in one is in `strategies.round.runner`.

    Attributes:
        settings: what does not depend on the method.
        state: the global state, updated in place.
        fleet: the nodes met so far.
        report: of the round under way, or of the last one.
        sent: the requests of that round.
    """

    settings: Settings
    state: dict[str, Tensor]
    fleet: NodeManager
    report: RoundReport
    sent: list[TrainAssignment]
    _asked: Sequence[ScoreRequest] = ()  # to score, in Flower's own loop
    _timeout: float | None = None  # what the caller of `start` said
    _train_config: ConfigRecord | None = None
    _evaluate_config: ConfigRecord | None = None

    @abstractmethod
    def prepare(self, grid: Grid, round_number: int) -> None:
        """Begin a round: hello, select, plan; fills `report` and `sent`."""

    @abstractmethod
    def fold(self) -> RoundAggregator:
        """What takes the replies to `sent`."""

    @abstractmethod
    def conclude(self, fold: RoundAggregator) -> None:
        """End the round: the new state, or none for want of replies."""

    @abstractmethod
    def score_requests(self, grid: Grid, round_number: int) -> list[ScoreRequest]:
        """Requests to score the state on the nodes' own data; none if that is off."""

    def run_round(self, grid: Grid, round_number: int) -> RoundReport:
        """One round. The new state is in `state`; an abandoned round leaves it as it was."""
        self._gather(grid)
        self.prepare(grid, round_number)
        began, fold, report = perf_counter(), self.fold(), self.report
        messages = _with_config([sent.message for sent in self.sent], self._train_config)
        if messages:
            # Simulated clients have the other cores, and threads that wait for each other on busy cores take longer
            # than one: 1.2 s instead of 0.2 for 50 replies of 6.5 MB.
            with threads(1):
                waited = self._train(grid, messages, fold)
            report.waiting["train"] = waited.to_row()
            report.withdrawn = [self.sent[i].node.id for i in waited.left]
            if self.settings.fleet is None:
                fold.note_transport(waited.arrived)
        report.seconds["train"] = perf_counter() - began - report.seconds.get("fold", 0.0)
        self.conclude(fold)
        began = perf_counter()
        self.report.scores = self._score(grid, round_number)
        self.report.local = mean_scores(self.report.scores)
        self.report.seconds["local evaluation"] = perf_counter() - began
        return self.report

    def _train(self, grid: Grid, messages: Sequence[Message], fold: RoundAggregator) -> WaitTimes:
        """Send the requests of a round and take the replies."""
        settings, report, seconds = self.settings, self.report, self._seconds
        enough = (lambda: report.accepted >= report.wanted) if settings.over_selection > 1 else None
        if enough is None or settings.fleet is None:
            return exchange(grid, messages, fold.take, seconds=seconds, odd=fold.odd, enough=enough)
        came: list[Message | None] = [None] * len(messages)  # which are the first, virtual time says
        waited = exchange(grid, messages, came.__setitem__, seconds=seconds, odd=fold.odd)
        waited.left = fold.take_first(came, enough)
        return waited

    def _score(self, grid: Grid, round_number: int) -> list[LocalScore]:
        scores: list[LocalScore | None] = []
        asked = self.score_requests(grid, round_number)
        if asked:
            messages = _with_config([request.message for request in asked], self._evaluate_config)
            self.report.survey_bytes["down"] += sum(bytes_of(m.content.array_records["arrays"]) for m in messages)
            waited = exchange(
                grid, messages, lambda i, reply: scores.append(read_score(asked[i], reply)), seconds=self._seconds
            )
            self.report.waiting["local evaluation"] = waited.to_row()
        return [score for score in scores if score is not None]

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFunction | None = None,
        *,
        first_round: int = 1,
        after_round: Callable[[RoundReport], None] | None = None,
    ) -> Result:
        """Run rounds `first_round` to `num_rounds`; the ordinary signature of Flower's strategies, and a little more.

        Args:
            grid: where the nodes are.
            initial_arrays: the global state before `first_round`, one array per tensor.
            num_rounds: the last round.
            timeout: seconds that a round waits for replies, in place of `settings.deadline`.
            train_config: what else training requests shall say, for clients of your own: their record "config".
            evaluate_config: likewise for requests to score on a node's own data.
            evaluate_fn: called before the first round and after every round, as Flower does.
            first_round: where to go on (with a restored state).
            after_round: called with every round's report.

        Returns:
            Flower's result: final arrays and metrics by round.

        Raises:
            WireError: the arrays do not fit the network.
            NotEnoughNodes: too few nodes came, or none of them answered hello.
            NothingLearnt: no round had the replies it needed.
        """
        self._timeout, self._train_config, self._evaluate_config = timeout, train_config, evaluate_config
        self.load(initial_arrays)
        self.summary()
        result = Result(arrays=initial_arrays)
        _note(result, first_round - 1, evaluate_fn, initial_arrays)
        self._wait_for_nodes(grid)
        learnt = first_round > min(1, num_rounds)  # a run that goes on has learnt, or its caller knows better
        for round_number in range(first_round, num_rounds + 1):
            report = self.run_round(grid, round_number)
            learnt = learnt or (report.accepted > 0 and not report.abandoned)
            if report.accepted:
                result.train_metrics_clientapp[round_number] = self._train_metrics()
            if report.local:
                result.evaluate_metrics_clientapp[round_number] = MetricRecord(dict(report.local))
            if evaluate_fn is not None:
                _note(result, round_number, evaluate_fn, record_of(self.state))
            if after_round is not None:
                after_round(report)
        if not learnt:
            said = self.report.rejected[0].reason if self.report.rejected else "nobody replied"
            raise NothingLearnt(f"no round had the replies it needed; in the last one, for example: {said}")
        result.arrays = record_of(self.state)
        return result

    def _wait_for_nodes(self, grid: Grid) -> None:
        wanted = self.settings
        online = self.fleet.wait(grid, wanted.nodes, wanted.min_nodes, wanted.node_wait)
        if online < wanted.nodes:
            hint = "more: `flotilla run`, or `flwr run . --federation-config 'num-supernodes=%d'`"
            log(WARNING, f"%d of %d nodes are online; {hint}", online, wanted.nodes, wanted.nodes)

    @property
    def _seconds(self) -> float:
        """How long to wait for replies."""
        return self.settings.wait if self._timeout is None else self._timeout

    def _gather(self, grid: Grid) -> None:
        """Where nodes have left, give as many as the run needs the time to come back."""
        least = self.settings.min_nodes
        try:
            self.fleet.wait(grid, least, least, self.settings.node_wait)
        except NotEnoughNodes as error:
            log(WARNING, "%s; this round goes on without more", error)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Requests of a round, for Flower's own loop."""
        self.load(arrays)
        self.prepare(grid, server_round)
        return _with_config([sent.message for sent in self.sent], config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """RoundAggregator the replies to `configure_train`; (None, None) when the round is abandoned."""
        del server_round  # the report knows
        fold = self.fold()
        position = {sent.message.metadata.message_id: i for i, sent in enumerate(self.sent)}
        arrived: dict[int, Message] = {}
        for reply in replies:
            i = position.get(reply.metadata.reply_to_message_id)
            if i is None or i in arrived:
                fold.odd(reply, "unknown" if i is None else "duplicate")
            else:
                arrived[i] = reply
        for i in range(len(self.sent)):
            fold.take(i, arrived.get(i))
        self.conclude(fold)
        return (None, None) if self.report.abandoned else (record_of(self.state), self._train_metrics())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Requests to score locally, for Flower's own loop."""
        self.load(arrays)
        self._asked = self.score_requests(grid, server_round)
        return _with_config([request.message for request in self._asked], config)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Weighted means of the local scores; each by itself is in the report."""
        del server_round
        arrived = {reply.metadata.reply_to_message_id: reply for reply in replies}
        found = [read_score(request, arrived.get(request.message.metadata.message_id)) for request in self._asked]
        self.report.scores = [score for score in found if score is not None]
        self.report.local = mean_scores(self.report.scores)
        return MetricRecord(dict(self.report.local)) if self.report.local else None

    def load(self, arrays: ArrayRecord) -> None:
        """Take a state; the buffers stay.

        Raises:
            WireError: names or shapes differ from the network's.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        for name, tensor in state_of(arrays, shapes).items():
            self.state[name].copy_(tensor)

    def _train_metrics(self) -> MetricRecord:
        return MetricRecord({"train-loss": self.report.train_loss or 0.0, "accepted": self.report.accepted})


def _note(result: Result, round_number: int, evaluate_fn: EvaluateFunction | None, arrays: ArrayRecord) -> None:
    metrics = evaluate_fn(round_number, arrays) if evaluate_fn is not None else None
    if metrics is not None:
        result.evaluate_metrics_serverapp[round_number] = metrics


def _with_config(messages: list[Message], config: ConfigRecord | None) -> list[Message]:
    """Add what the caller of Flower's loop wants clients to read, where Flower has it; ours is another record."""
    for message in messages if config else ():
        message.content["config"] = ConfigRecord(dict(config or {}))
    return messages
