"""One round as the server sees it: what was sent, what came back, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from math import ceil, isfinite
from time import perf_counter
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from protocol import NodeId
from strategies.nodes.manager import Node
from strategies.robustness.guard import ClientUpdate, Rejected, Rejection, check
from strategies.robustness.norm_bounds import NormBounds
from strategies.robustness.options import GuardOptions
from strategies.round.messaging import WINDOW
from strategies.transport.uplink import UplinkDecoder
from strategies.virtual import Late, VirtualClock


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainAssignment:
    """What the server remembers of one request, so that nothing has to come back.

    Attributes:
        node: who got it.
        tier: the node's tier this round.
        plan: which part it was asked to train.
        part: the same as blocks.
        nonce: the name of the request.
        message: the request itself.
        bytes_down: encoded bytes of its arrays.
        weight: what numerator and denominator of the reply are multiplied by, on behalf of the selection.
    """

    node: Node
    tier: str
    plan: Plan
    part: Submodel
    nonce: str
    message: Message
    bytes_down: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedUpdate:
    """What an accepted reply said of its node.

    Attributes:
        sent: the request.
        metrics: the reply's numbers.
        vector: of its difference, if the selector wants one.
        cluster: whose state it changed; None for a reply that changed none.
        remember: what the codec wants kept of the node.
    """

    sent: TrainAssignment
    metrics: Mapping[str, float]
    vector: NDArray[np.float32] | None
    cluster: int | None = 0
    remember: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalScore:
    """How the part that its tier keeps does on a node's own test examples.

    Attributes:
        node: who said it.
        tier: the node's tier.
        examples: test examples that it has.
        metrics: means over them, by the names in `strategies.round.federated_evaluation.SCORES`.
    """

    node: NodeId
    tier: str
    examples: float
    metrics: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class RoundReport:
    """What happened in a round, for the metrics.

    Attributes:
        number: 1-based round.
        selected: stable ids in the round's order.
        selected_tiers: tier → how many of them.
        selected_ever: how many different nodes were selected in the rounds so far.
        accepted: replies that were folded.
        rejected: replies that were not, and why.
        abandoned: whether the model was left as it was for want of replies.
        train_loss: mean training loss over accepted replies, weighted by examples; None without replies.
        train_accuracy: likewise, the share of right predictions while training.
        coverage: share of the coordinates held by somebody this round ("round") and ever ("ever"), and the mean number
            of holders per coordinate this round ("mean").
        bytes_down, bytes_up: encoded bytes of arrays sent and of accepted replies.
        entropy_bytes_up: what an ideal coder would have needed for the latter (see `protocol.codecs.Decoded`).
        seconds: wall seconds by phase.
        client_seconds: means over accepted replies: wall seconds of "local" work, of "computing" in it, and "outside"
            of it: from the sending of all requests until the reply was in hand, less the local work.
        traffic: tier → encoded bytes of one device's arrays, "down" and "up".
        survey_bytes: encoded bytes of what was asked beside training, "down" and "up".
        local: results of the nodes' evaluation on their own data, if any: means over their examples.
        scores: the same by node, in order of ids.
        clusters: what the clustering says of the round; {} without clusters.
        virtual: seconds of a virtual fleet: of this "round", and "elapsed" since the run began; {} without one.
        wanted: replies that the round needs to end, which are fewer than the selected with over-selection.
        withdrawn: nodes whose reply was not waited for, because there were enough.
        waiting: phase → where the seconds of asking went (see `strategies.round.messaging.Waited`).
        guard: bounds, what was clipped, what was spent of a privacy budget; {} if all of that is off.
    """

    number: int
    selected: list[NodeId] = field(default_factory=list)
    selected_tiers: dict[str, int] = field(default_factory=dict)
    selected_ever: int = 0
    accepted: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    abandoned: bool = False
    train_loss: float | None = None
    train_accuracy: float | None = None
    coverage: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    entropy_bytes_up: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    client_seconds: dict[str, float] = field(default_factory=dict)
    traffic: dict[str, dict[str, int]] = field(default_factory=dict)
    survey_bytes: dict[str, int] = field(default_factory=lambda: {"down": 0, "up": 0})
    local: dict[str, float] = field(default_factory=dict)
    scores: list[LocalScore] = field(default_factory=list)
    clusters: dict[str, Any] = field(default_factory=dict)
    virtual: dict[str, float] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    wanted: int = 0
    withdrawn: list[NodeId] = field(default_factory=list)
    waiting: dict[str, dict[str, float]] = field(default_factory=dict)


def share_of(share: float, count: int) -> int:
    """A share of a whole number, rounded up; 0.07 of 100 is 7, which it is not in floating point."""
    return ceil(Fraction(str(share)) * count)


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


class Coverage:
    """How many clients touched each coordinate, this round and ever.

    Args:
        average: whose holders to count.

    Attributes:
        ever: tensor name → whether each unit was ever held (bool), part of a checkpoint.
    """

    def __init__(self, average: PartialAverage) -> None:
        self._average = average
        self.ever: dict[str, Tensor] = {name: holders > 0 for name, holders in average.coverage().items()}

    def count(self) -> dict[str, float]:
        """Shares "round" and "ever" and mean holders "mean", over all coordinates of the network."""
        touched = ever = holders = total = 0.0
        for name, per_unit in self._average.coverage().items():
            size = self._average.unit_size(name)
            self.ever[name] |= per_unit > 0
            touched += size * float((per_unit > 0).sum())
            ever += size * float(self.ever[name].sum())
            holders += size * float(per_unit.sum(dtype=per_unit.double().dtype))
            total += size * per_unit.numel()
        return {"round": touched / total, "ever": ever / total, "mean": holders / total}

    def restore(self, ever: Mapping[str, Tensor]) -> None:
        """Take up what a checkpoint knew."""
        self.ever = {name: tensor.bool() for name, tensor in ever.items()}
