"""One round as the server sees it: what was sent, what came back, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from time import perf_counter

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from models.algebra.average import PartialAverage
from models.algebra.submodel import Submodel
from protocol import NodeId
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.messaging import WINDOW
from strategies.exchange.report import RoundReport
from strategies.exchange.update import AcceptedUpdate, ClientUpdate, Rejected, Rejection, check
from strategies.robustness.norm_bounds import NormBounds
from strategies.robustness.options import GuardOptions
from strategies.tiers.tier import share_of
from strategies.transport.uplink import UplinkDecoder
from strategies.virtual.clock import Late, VirtualClock

Weigh = Callable[[TrainAssignment, ClientUpdate], tuple[float, float]]
Labels = Callable[[TrainAssignment], tuple[int, ...] | None]
Vector = Callable[[TrainAssignment, ClientUpdate], NDArray[np.float32] | None]


@dataclass(frozen=True, slots=True)
class UpdateTarget:
    """Where a reply is added.

    Attributes:
        average: of the state that it changes; None if it changes none.
        part: what the node held of it.
        cluster: the number of that state.
    """

    average: PartialAverage | None
    part: Submodel
    cluster: int | None = 0


Targeting = Callable[[TrainAssignment, ClientUpdate], UpdateTarget]
Note = Callable[[TrainAssignment, Submodel, ClientUpdate], None]


class RoundAggregator:
    """Takes the replies of one round: guard first, then add, then forget.

    Args:
        place: where a reply is added.
        report: of this round; filled in.
        sent: the requests, in the round's order.
        decoding: reads the encoded differences.
        weigh: numerator and denominator of a reply; a ValueError rejects it.
        labels: class rows that a reply may change, None for all.
        vector: what is to be remembered of a difference.
        note: told of every reply that has been added, with the part that the node held.
        limits: of lengths and weights.
        clock: of a virtual fleet, which says what replies took and which are late.

    Attributes:
        missed: requests whose reply did not come, came late or was an error.
        learnt: what the accepted replies said of their nodes; of no use if the round is abandoned.
        outside: node → seconds until its accepted reply was there, less its own; where that is known.
    """

    def __init__(
        self,
        place: Targeting,
        report: RoundReport,
        sent: list[TrainAssignment],
        decoding: UplinkDecoder,
        weigh: Weigh,
        labels: Labels,
        vector: Vector = lambda sent, reply: None,
        note: Note = lambda sent, part, reply: None,
        limits: NormBounds | None = None,
        clock: VirtualClock | None = None,
    ) -> None:
        self._clock = clock
        self.missed: list[TrainAssignment] = []
        self._limits = NormBounds(GuardOptions()) if limits is None else limits
        self._place, self._report, self._sent, self._decoding = place, report, sent, decoding
        self._weigh, self._labels, self._vector, self._note = weigh, labels, vector, note
        self._sums: dict[str, float] = {}
        self._examples = 0.0
        self._taken: set[int] = set()
        self.learnt: list[AcceptedUpdate] = []
        self.outside: dict[NodeId, float] = {}

    def take(self, i: int, message: Message | None) -> None:
        """Take the reply to request `i` (None: it did not come)."""
        began = perf_counter()
        sent = self._sent[i]
        try:
            if i in self._taken:
                raise Rejected("duplicate")
            came = check(message, sent.nonce, partial(self._decoding.decode, sent.node.id, sent.part))
            if self._clock is not None:
                self._clock.judge(sent, self._report.number, came)
            accepted = self._limits.limited(sent.tier, came)
            try:
                place = self._place(sent, accepted)
                numerator, denominator = self._weigh(sent, accepted)
                a, b, rows = numerator * sent.weight, denominator * sent.weight, self._labels(sent)
                if place.average is not None:
                    place.average.add(place.part, accepted.difference, a, b, rows, norm=accepted.norm)
                elif not isfinite(accepted.norm):
                    raise ValueError("the difference is not finite")
            except ValueError as error:
                raise Rejected(str(error)) from None
        except Rejected as rejected:
            self._report.rejected.append(Rejection(sent.node.id, str(rejected)))
            if message is None or message.has_error() or isinstance(rejected, Late):
                self.missed.append(sent)
            if message is None and self._clock is not None:
                self._clock.lost()
        else:
            self._taken.add(i)
            self._limits.note(sent.tier, came.norm)
            self._note(sent, place.part, accepted)
            self._count(sent, accepted, place.cluster)
        self._report.seconds["fold"] = self._report.seconds.get("fold", 0.0) + perf_counter() - began

    def take_first(self, came: Sequence[Message | None], enough: Callable[[], bool]) -> list[int]:
        """Take replies in the order of their virtual arrival until there are enough; return who is left over."""
        clock, number = self._clock, self._report.number
        assert clock is not None  # there is no other virtual time
        foreseen = [clock.foresee(sent, number, reply) for sent, reply in zip(self._sent, came, strict=True)]
        left = sorted(range(len(came)), key=foreseen.__getitem__)
        while left and not enough():
            self.take(left[0], came[left[0]])
            del left[0]
        return left

    def odd(self, message: Message, reason: str) -> None:
        """Count a message that answers no open request."""
        answered = message.metadata.reply_to_message_id
        node = next((s.node.id for s in self._sent if s.message.metadata.message_id == answered), None)
        self._report.rejected.append(Rejection(node, reason))

    def _count(self, sent: TrainAssignment, accepted: ClientUpdate, cluster: int | None) -> None:
        report, metrics = self._report, accepted.metrics
        examples = metrics["num-examples"]
        report.accepted += 1
        report.bytes_up += accepted.bytes_up
        report.entropy_bytes_up += accepted.entropy_bytes
        self._examples += examples
        for key, weight in (("loss", examples), ("accuracy", examples), ("seconds", 1.0), ("seconds-computing", 1.0)):
            self._sums[key] = self._sums.get(key, 0.0) + weight * metrics.get(key, 0.0)
        report.train_loss = self._sums["loss"] / self._examples
        report.train_accuracy = self._sums["accuracy"] / self._examples
        report.client_seconds = {
            "local": self._sums["seconds"] / report.accepted,
            "computing": self._sums["seconds-computing"] / report.accepted,
        }
        report.traffic[sent.tier] = {"down": sent.bytes_down, "up": accepted.bytes_up}
        self.learnt.append(
            AcceptedUpdate(
                sent=sent,
                metrics=metrics,
                vector=self._vector(sent, accepted),
                cluster=cluster,
                remember=accepted.remember,
            )
        )

    @property
    def missing(self) -> list[TrainAssignment]:
        """The requests without an accepted reply."""
        return [sent for i, sent in enumerate(self._sent) if i not in self._taken]

    def enough(self, quorum: float) -> bool:
        """Whether the round has the replies it needs; at least one in any case."""
        return self._report.accepted >= max(1, share_of(quorum, self._report.wanted or len(self._sent)))

    def note_transport(self, arrived: Mapping[int, float]) -> None:
        """Note how long accepted replies took beside the clients' own work.

        Args:
            arrived: position of a request → seconds from the sending of all until its reply was in hand.
        """
        own = {id(one.sent): one.metrics.get("seconds", 0.0) for one in self.learnt}
        outside = {i: after - own[id(self._sent[i])] for i, after in arrived.items() if id(self._sent[i]) in own}
        if outside:
            self._report.client_seconds["outside"] = sum(outside.values()) / len(outside)
        # Only for the first of them is looked from the start; a later reply may have been waiting unseen.
        self.outside = {self._sent[i].node.id: max(0.0, after) for i, after in outside.items() if i < WINDOW}
