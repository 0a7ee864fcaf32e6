"""Takes the replies of one round: every one through the stages, added, counted and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray
from torch import Tensor

from strategies.aggregation.global_state import GlobalState
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome
from strategies.exchange.update import AcceptedUpdate, Blamed, ClientUpdate, Rejected, Rejection, why_unusable
from strategies.robustness.last_said import LEAST
from strategies.round.arrivals import Arrivals
from strategies.round.held_replies import MOST, HeldReplies
from strategies.round.stages import Stage, authenticate
from strategies.selection.comparable import believed
from strategies.virtual.clock import Late

Vector = Callable[[TrainAssignment, ClientUpdate], NDArray[np.float32] | None]
Heard = Callable[[TrainAssignment, ClientUpdate], bool]
Listener = Callable[[TrainAssignment, ClientUpdate], None]


class RoundAggregator:
    """Takes replies, in whatever order it is given them.

    Args:
        report: of this round; filled in.
        assignments: what was asked, in the round's order.
        messages: the requests, in the same order; those of an earlier round, whose assignments come last, are gone.
        bytes_down: encoded bytes of their arrays.
        first_stages, stages: what a reply goes through, see `strategies.round.stages`.
        hear: told of every reply between the two; says whether it can be judged by what is known. Where it cannot, the
            first replies wait for each other.
        heard_enough: whether they need not wait any longer.
        doubts: whether a reply is odd by what is known; then it waits for the round's end, when it may turn out that
            everybody's are.
        states: cluster → the state to whose average its replies are added.
        vector: what the selector wants remembered of a difference; None is nothing.
        listeners: told of every reply that was added.
        sums: if given, takes replies in place of the stages after the first; `add_sum` counts them.
        guard: whether no loss counts for more than a few of the others' in the mean that is reported.

    Attributes:
        missed: assignments whose reply did not come, came late or was an error.
        accepted: what the accepted replies said of their nodes; of no use if the round is abandoned.
        arrivals: when the accepted replies were there; nothing before `note_transport`.
        waited_in_vain: whether some reply did not come at all.
    """

    def __init__(
        self,
        *,
        report: RoundReport,
        assignments: Sequence[TrainAssignment],
        messages: Sequence[Message],
        bytes_down: Sequence[int],
        first_stages: Sequence[Stage],
        stages: Sequence[Stage],
        hear: Heard,
        heard_enough: Callable[[], bool] = lambda: True,
        doubts: Heard = lambda assignment, update: False,
        states: Mapping[int, GlobalState],
        vector: Vector | None = None,
        listeners: Sequence[Listener] = (),
        sums: Listener | None = None,
        guard: bool = True,
    ) -> None:
        self._report, self._assignments = report, assignments
        self._requests = [one.metadata for one in messages]  # not the messages, which hold a state
        self._bytes_down, self._states = bytes_down, states
        self._first_stages, self._stages = first_stages, stages
        self._hear, self._heard_enough, self._doubts = hear, heard_enough, doubts
        self._vector, self._listeners, self._summed = vector, listeners, sums
        self._guard = guard
        self._said: list[tuple[float, float, float]] = []  # examples, loss and accuracy of each reply that counts
        self._seconds = [0.0, 0.0]
        self._taken: set[int] = set()
        # Whether the first replies wait for each other: one alone has nobody to wait for, nor have those after enough.
        self._waiting = len(assignments) > 1
        self._settled = False  # whether they are
        self._first: HeldReplies | None = None
        self._doubted: HeldReplies | None = None
        self.missed: list[TrainAssignment] = []
        self.accepted: list[AcceptedUpdate] = []
        self.arrivals = Arrivals()
        self.waited_in_vain = False

    def take(self, i: int, message: Message | None) -> None:
        """Take the reply to request `i` (None: it did not come)."""
        self.waited_in_vain |= message is None
        self._take(i, lambda: self._read(i, message), missed=message is None or message.has_error())

    def take_read(self, i: int, update: ClientUpdate | Rejected, missed: bool) -> None:
        """Take what came of request `i` when it had its turn, and was read before: a reply, or why there is none."""

        def read() -> ClientUpdate:
            if isinstance(update, Rejected):
                raise update
            return update

        self._take(i, read, missed=missed)

    def _take(self, i: int, read: Callable[[], ClientUpdate], *, missed: bool) -> None:
        """Bring a reply to where it can be judged; accept it, or hold it until it can be."""
        self.settle()
        began, assignment = perf_counter(), self._assignments[i]
        with self._named(i, missed=missed):
            update = read()
            for stage in self._first_stages:
                update = stage(assignment, update)
            if self._summed is not None:
                self._summed(assignment, update)
                self._taken.add(i)
            elif (not self._hear(assignment, update) and self._waiting) or self._first is not None:
                self._first = HeldReplies() if self._first is None else self._first
                self._first.hold(i, update)  # in the order in which they come
                self._taken.add(i)
                self._settled = len(self._first) >= MOST or self._heard_enough()
            elif (self._doubted is None or len(self._doubted) < MOST) and self._doubts(assignment, update):
                self._doubted = HeldReplies() if self._doubted is None else self._doubted
                self._doubted.hold(i, update)
                self._taken.add(i)
            else:
                self._accept(i, update)
        self._took(began)

    def settle(self) -> None:
        """Go on with the first replies where they need wait no longer: best when no other reply is in memory."""
        if self._settled:
            self._release_first()

    def release(self) -> None:
        """Take the replies that wait for something: no more are coming."""
        self._release_first()
        if self._doubted is not None:
            self._accept_held(self._doubted)
        self._note_means()

    def _release_first(self) -> None:
        """Take the replies that wait for each other: there are enough of them."""
        first, self._first, self._waiting, self._settled = self._first, None, False, False
        if first is not None:
            self._accept_held(first)

    def _accept_held(self, held: HeldReplies) -> None:
        began = perf_counter()
        for i, update in held.release():
            self._taken.discard(i)
            with self._named(i):
                self._accept(i, update)
            del update  # before the next one is read
        self._took(began)

    @property
    def usable(self) -> int:
        """Replies that were added, or wait for each other; one that is in doubt may never be."""
        return self._report.accepted + (0 if self._first is None else len(self._first))

    def _took(self, began: float) -> None:
        seconds = self._report.seconds
        seconds["fold"] = seconds.get("fold", 0.0) + perf_counter() - began

    @contextmanager
    def _named(self, i: int, *, missed: bool = False) -> Iterator[None]:
        """Count what is wrong with the reply to a request, whatever it is: the run goes on without it."""
        assignment = self._assignments[i]
        try:
            yield
        except Exception as error:
            blames = error.positions if isinstance(error, Blamed) else ()
            self._report.rejected.append(Rejection(assignment.node.id, why_unusable(error), blames))
            if missed or isinstance(error, Late | Blamed):
                self.missed.append(assignment)

    def _read(self, i: int, message: Message | None) -> ClientUpdate:
        """Read a reply."""
        if i in self._taken:
            raise Rejected("duplicate")
        return authenticate(self._assignments[i], message, self._bytes_down[i])

    def _accept(self, i: int, update: ClientUpdate) -> None:
        """Bring a reply through the other stages, add it and count it; if it is rejected, nothing has been added.

        What could fail comes before the addition: the average's own look at it, then who wants something of it.
        """
        assignment, average = self._assignments[i], None
        for stage in self._stages:
            update = stage(assignment, update)
        part, difference = assignment.part if update.part is None else update.part, update.difference
        weights = update.numerator, update.denominator
        if update.counted is not None:
            part, places = update.counted
            difference = difference[places]
        if update.cluster is not None:
            average = self._states[update.cluster].average
            average.check(part.numel, difference, weights, update.rows, update.norm)
        accepted = AcceptedUpdate(
            assignment=assignment,
            metrics=update.metrics,
            vector=None if self._vector is None else self._vector(assignment, update),
            cluster=update.cluster,
            remember=update.remember,
        )
        for listen in self._listeners:
            listen(assignment, update)
        if average is not None:
            average.add(part, difference, *weights, labels=update.rows, norm=update.norm)
        self._report.moved |= update.norm * abs(update.numerator) > 0
        self.accepted.append(accepted)
        self._taken.add(i)
        self._count(update)

    def add_sum(
        self, members: Sequence[tuple[TrainAssignment, ClientUpdate]], difference: Tensor, denominator: float
    ) -> None:
        """Add what several replies come to together, and count each of them.

        Args:
            members: what was asked, and what came beside the difference; all about one part of the only state.
            difference: Σ aΔ over them.
            denominator: Σ b.

        Raises:
            ValueError: as `PartialAverage.add_sum`; nothing has been added or counted then.
        """
        average, first = self._states[0].average, members[0][0]
        average.add_sum(first.part, difference, denominator, len(members))
        self._report.moved |= bool(difference.any())
        for assignment, update in members:
            self.accepted.append(AcceptedUpdate(assignment=assignment, metrics=update.metrics))
            self._count(update)
        self._note_means()

    def odd(self, message: Message, reason: str) -> None:
        """Count a message that answers no open request."""
        answered = message.metadata.reply_to_message_id
        pairs = zip(self._assignments, self._requests, strict=False)  # some were asked in an earlier round
        node = next((one.node.id for one, request in pairs if request.message_id == answered), None)
        self._report.rejected.append(Rejection(node, reason))

    def _count(self, update: ClientUpdate) -> None:
        """Count the reply that was added last."""
        report, metrics = self._report, update.metrics
        examples = metrics["num-examples"]
        report.accepted += 1
        report.bytes_up += update.bytes_up
        report.entropy_bytes_up += update.entropy_bytes
        self._said.append((examples, metrics.get("loss", 0.0), metrics.get("accuracy", 0.0)))
        for i, key in enumerate(("seconds", "seconds-computing")):
            self._seconds[i] += metrics.get(key, 0.0)
        report.client_seconds = dict(
            zip(("local", "computing"), (total / report.accepted for total in self._seconds), strict=True)
        )
        traffic = {"down": update.bytes_down, "up": update.bytes_up}
        report.traffic[self.accepted[-1].assignment.tier] = traffic

    def _note_means(self) -> None:
        """Note the mean loss and accuracy of the replies that count, weighted by examples."""
        if not self._said:
            return
        examples, losses, accuracies = (np.array(column) for column in zip(*self._said, strict=True))
        if self._guard and len(losses) >= LEAST:
            losses = believed(losses)
        total = sum(examples.tolist())
        self._report.train_loss = sum((examples * losses).tolist()) / total
        self._report.train_accuracy = sum((examples * accuracies).tolist()) / total

    @property
    def missing(self) -> list[TrainAssignment]:
        """The assignments without an accepted reply."""
        counted = {one.assignment.nonce for one in self.accepted}
        return [one for one in self._assignments if one.nonce not in counted]

    @property
    def outcome(self) -> RoundOutcome:
        """What came of the round."""
        return RoundOutcome(
            report=self._report,
            accepted=self.accepted,
            missed=self.missed,
            transport_seconds=self.arrivals.transport,
            transport_at_most=self.arrivals.transport_at_most,
            arrival_seconds=self.arrivals.seconds,
            beside_seconds=self.arrivals.beside,
            waited_in_vain=self.waited_in_vain,
        )

    def note_transport(
        self, arrived: Mapping[int, float], unseen: Collection[int] = (), known: Mapping[str, float] | None = None
    ) -> None:
        """Note how long accepted replies took beside the clients' own work.

        Args:
            arrived: position of a request → seconds from the sending of all until its reply was in hand.
            unseen: positions of those that may have been there for long.
            known: tier → the most that its replies took beside, in rounds before.
        """
        said = {id(one.assignment): one.metrics.get("seconds", 0.0) for one in self.accepted}
        own = {i: said[id(one)] for i, one in enumerate(self._assignments) if id(one) in said}
        self.arrivals = Arrivals.of(self._assignments, own, arrived, unseen, known or {})
        if self.arrivals.outside is not None:
            self._report.client_seconds["outside"] = self.arrivals.outside
