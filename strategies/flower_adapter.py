"""Flower's `Strategy` interface in front of a method and the runner that has it.

    HeteroFL(NetworkSpec("cnn", (1, 28, 28), 10)).start(grid, arrays, num_rounds=20)

`start` has its ordinary signature; the four methods that Flower's own loop calls work as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from logging import INFO, WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from models.errors import SettingError
from models.networks.spec import NetworkSpec
from protocol import Scalar, record_of, state_of
from strategies.context import RoundContext
from strategies.exchange.messaging import FROM_ANOTHER
from strategies.exchange.report import RoundReport
from strategies.method import Method
from strategies.round.federated_evaluation import ScoreRequest, note_scores
from strategies.round.runner import Runner
from strategies.round.training import aggregator_of
from strategies.settings import Settings

EvaluateFunction = Callable[[int, ArrayRecord], MetricRecord | None]


class NothingLearnt(RuntimeError):
    """No round, or for too long none, had the replies it needed."""


class FlowerStrategy(Method, Strategy):
    """A method with Flower's interface.

    Args:
        network: the global network; its defaults are filled in.
        settings: what does not depend on the method.
        options: the method's own settings by name; see `OPTIONS` of each method.

    Attributes:
        runner: runs the rounds, by this method.

    Raises:
        SettingError: a setting that cannot be used.
        ValueError: a tier whose part leaves a layer empty.
        TypeError: an option that the method does not have.
    """

    def __init__(self, network: NetworkSpec, settings: Settings | None = None, **options: Scalar) -> None:
        super().__init__(options)
        self.runner = Runner(self, network, settings or Settings())
        self._timeout: float | None = None  # what the caller of `start` said
        self._scoring: Sequence[ScoreRequest] = ()  # requests under way, in Flower's own loop

    @property
    def network(self) -> NetworkSpec:
        """The global network as the method needs it."""
        return self.runner.network

    @property
    def settings(self) -> Settings:
        """What does not depend on the method."""
        return self.runner.settings

    @property
    def state(self) -> dict[str, Tensor]:
        """The global state by name; of several, that of the largest cluster. Rounds change it in place."""
        return self.runner.main.tensors

    @property
    def report(self) -> RoundReport:
        """Of the round under way, or of the last one."""
        return self.runner.round.report

    def context(self, round_number: int) -> RoundContext:
        """What the method's hooks want to be told of a round."""
        return self.runner.context(round_number)

    def load(self, arrays: ArrayRecord) -> None:
        """Take a state, which becomes the main one; the buffers stay.

        Raises:
            WireError: names or shapes differ from the network's.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        for name, tensor in state_of(arrays, shapes).items():
            self.state[name].copy_(tensor)
        clusters = self.runner.pieces.clusters
        clusters.loaded(clusters.main)

    def summary(self) -> None:
        """Log one line, and one for every doubt about the settings."""
        context = self.context(1)
        tiers = ", ".join(f"{tier.name}={tier.rate} {tier.precision}".rstrip() for tier in self.settings.tiers)
        size = f"{context.layout.parameters:,}"
        log(INFO, "%s on %s (%s parameters), tiers %s", type(self).__name__, self.network.name, size, tiers)
        for line in [*self.settings.doubts(), *self.doubts(context)]:
            log(WARNING, line)

    def run_round(
        self,
        grid: Grid,
        round_number: int,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> RoundReport:
        """One round; see `Runner.run_round`."""
        return self.runner.run_round(
            grid,
            round_number,
            seconds=self._timeout,
            amend=partial(_with_config, config=train_config) if train_config else None,
            amend_scoring=partial(_with_config, config=evaluate_config) if evaluate_config else None,
            meanwhile=meanwhile,
        )

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
        after_round: Callable[[RoundReport], object] | None = None,
    ) -> Result:
        """Run rounds `first_round` to `num_rounds`; the ordinary signature of Flower's strategies, and a little more.

        Args:
            grid: where the nodes are.
            initial_arrays: the global state before `first_round`, one array per tensor.
            num_rounds: the last round.
            timeout: seconds that a round waits for replies, in place of `settings.deadline`.
            train_config: what else training requests shall say, for clients of your own: their record "config".
            evaluate_config: what else requests to score on a node's own data shall say.
            evaluate_fn: called before the first round and after every round, as Flower does.
            first_round: where to go on (with a restored state).
            after_round: called with every round's report. What it returns, if callable, is called once, when the next
                round's requests are out and its nodes train. It is called before that where there is no next round,
                where planning one has to wait for nodes, and where planning fails or is interrupted.

        Returns:
            Flower's result: final arrays and metrics by round.

        Raises:
            WireError: the arrays do not fit the network.
            NotEnoughNodes: too few nodes came, or none of them answered hello.
            NothingLearnt: no round had the replies it needed, or, without `after_round`, none of them changed anything.
        """
        self._timeout = timeout
        self.load(initial_arrays)
        self.summary()
        result = Result(arrays=initial_arrays)
        _note(result, first_round - 1, evaluate_fn, initial_arrays)
        self.runner.pieces.nodes.wait(grid)
        learnt = first_round > min(1, num_rounds)  # a run that goes on has learnt, or its caller knows better
        rest: _Once | None = None
        for round_number in range(first_round, num_rounds + 1):
            report = self._next_round(grid, round_number, train_config, evaluate_config, rest)
            if after_round is None:
                self._warn_of(report)
            # Who is told of every round may mean to change nothing, as by a learning rate near 0, to score a start.
            counts = report.moved if after_round is None else report.accepted > 0
            learnt = learnt or (counts and not report.abandoned)
            if report.accepted:
                result.train_metrics_clientapp[round_number] = self._train_metrics()
            if report.local:
                result.evaluate_metrics_clientapp[round_number] = MetricRecord(dict(report.local))
            if evaluate_fn is not None:
                _note(result, round_number, evaluate_fn, record_of(self.state))
            found = None if after_round is None else after_round(report)
            rest = _Once(found) if callable(found) else None
        if rest is not None:
            rest()
        if not learnt:
            raise NothingLearnt(f"no round changed anything; in the last one, for example: {_what_came(self.report)}")
        result.arrays = record_of(self.state)
        return result

    def _warn_of(self, report: RoundReport) -> None:
        """Say so where a round left the model as it was; who gives `after_round` is told by that."""
        why = f"abandoned, {report.accepted} of {report.wanted} replies were used" if report.abandoned else ""
        if why := why or report.changed_nothing():
            log(WARNING, "round %d changed nothing: %s; for example: %s", report.number, why, _what_came(report))

    def _next_round(
        self,
        grid: Grid,
        round_number: int,
        train_config: ConfigRecord | None,
        evaluate_config: ConfigRecord | None,
        rest: _Once | None,
    ) -> RoundReport:
        """One round, and what is left to do of the one before: that has ended, whatever becomes of this one."""
        if rest is None:
            return self.run_round(grid, round_number, train_config, evaluate_config)
        try:
            if self.runner.pieces.wait_first(grid, round_number):
                rest()
            return self.run_round(grid, round_number, train_config, evaluate_config, meanwhile=rest)
        except Exception:
            rest()
            raise
        except BaseException:  # somebody ends the run, which an error of the rest must not turn into anything else
            try:
                rest()
            except Exception as error:
                log(WARNING, "round %d: %s", round_number - 1, error)
            raise

    # ---- Flower's own loop -------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Requests of a round.

        Raises:
            SettingError: rounds are buffered, and Flower's loop waits for every reply.
        """
        if self.settings.buffered:
            raise SettingError(
                "aggregation-mode", "buffered", "rounds in Flower's own loop, which waits for every reply"
            )
        self.load(arrays)
        self.runner.begin(grid, server_round)
        return _with_config(self.runner.round.messages, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the replies to `configure_train`; (None, None) when the round is abandoned."""
        del server_round  # the report knows
        runner, requests = self.runner, self.runner.round.messages
        aggregator = aggregator_of(runner.round, method=runner.method, pieces=runner.pieces)
        position = {request.metadata.message_id: i for i, request in enumerate(requests)}
        arrived: dict[int, Message] = {}
        for reply in replies:
            i = position.get(reply.metadata.reply_to_message_id)
            if i is None or i in arrived:
                aggregator.odd(reply, "unknown" if i is None else "duplicate")
            elif not reply.has_error() and reply.metadata.src_node_id != requests[i].metadata.dst_node_id:
                aggregator.odd(reply, FROM_ANOTHER)
            else:
                arrived[i] = reply
        for i in range(len(requests)):
            aggregator.take(i, arrived.get(i))
        asked = [one.node.id for one in runner.round.assignments]
        runner.pieces.patience.note(self.report.number, asked, arrived)
        runner.finish(aggregator)
        return (None, None) if self.report.abandoned else (record_of(self.state), self._train_metrics())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Requests to score on the nodes' own test examples."""
        self.load(arrays)
        self._scoring = self.runner.score_requests(grid, server_round)
        return _with_config([request.message for request in self._scoring], config)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Weighted means of the local scores; each by itself is in the report."""
        del server_round
        arrived = {reply.metadata.reply_to_message_id: reply for reply in replies}
        found = [arrived.get(request.message.metadata.message_id) for request in self._scoring]
        note_scores(self._scoring, found, self.report, guard=self.runner.settings.guard)
        return MetricRecord(dict(self.report.local)) if self.report.local else None

    def _train_metrics(self) -> MetricRecord:
        return MetricRecord({"train-loss": self.report.train_loss or 0.0, "accepted": self.report.accepted})


class _Once:
    """Does something the first time that it is called."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action

    def __call__(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


def _note(result: Result, round_number: int, evaluate_fn: EvaluateFunction | None, arrays: ArrayRecord) -> None:
    metrics = evaluate_fn(round_number, arrays) if evaluate_fn is not None else None
    if metrics is not None:
        result.evaluate_metrics_serverapp[round_number] = metrics


def _with_config(messages: list[Message], config: ConfigRecord | None) -> list[Message]:
    """Add what the caller of Flower's loop wants clients to read, where Flower has it; ours is another record."""
    for message in messages if config else ():
        message.content["config"] = ConfigRecord(dict(config or {}))
    return messages


def _what_came(report: RoundReport) -> str:
    """One of the reasons why a round changed nothing."""
    if report.rejected:
        return report.rejected[0].reason
    return "differences of zero" if report.accepted else "nobody replied"
