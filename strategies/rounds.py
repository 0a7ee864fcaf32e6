"""One round as the server sees it: what was sent, what came back, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from time import perf_counter

from flwr.app import Message
from torch import Tensor

from models.average import PartialAverage
from models.plans import Plan
from models.submodel import Submodel
from protocol import NodeId
from strategies.fleet import Node
from strategies.guard import Accepted, Rejected, Rejection, check


@dataclass(frozen=True, slots=True)
class Sent:
    """What the server remembers of one request, so that nothing has to come back.

    Attributes:
        node: who got it.
        tier: the node's tier this round.
        plan: which part it was asked to train.
        part: the same as blocks.
        nonce: the name of the request.
        message: the request itself.
        bytes_down: encoded bytes of its arrays.
    """

    node: Node
    tier: str
    plan: Plan
    part: Submodel
    nonce: str
    message: Message
    bytes_down: int


@dataclass(slots=True)
class RoundReport:
    """What happened in a round, for the metrics.

    Attributes:
        number: 1-based round.
        selected: stable ids in the round's order.
        accepted: replies that were folded.
        rejected: replies that were not, and why.
        abandoned: whether the model was left as it was for want of replies.
        train_loss: mean training loss over accepted replies, weighted by examples; None without replies.
        train_accuracy: likewise, the share of right predictions while training.
        coverage: share of the coordinates held by somebody this round ("round") and ever ("ever"), and the mean number
            of holders per coordinate this round ("mean").
        bytes_down, bytes_up: encoded bytes of arrays sent and of accepted replies.
        seconds: wall seconds by phase.
        client_seconds: mean wall seconds of local work, and of computing in it.
        traffic: tier → encoded bytes of one device's arrays, "down" and "up".
        survey_bytes: encoded bytes of what was asked beside training, "down" and "up".
        local: results of the nodes' evaluation on their own data, if any.
    """

    number: int
    selected: list[NodeId] = field(default_factory=list)
    accepted: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    abandoned: bool = False
    train_loss: float | None = None
    train_accuracy: float | None = None
    coverage: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    client_seconds: dict[str, float] = field(default_factory=dict)
    traffic: dict[str, dict[str, int]] = field(default_factory=dict)
    survey_bytes: dict[str, int] = field(default_factory=lambda: {"down": 0, "up": 0})
    local: dict[str, float] = field(default_factory=dict)


def share_of(share: float, count: int) -> int:
    """A share of a whole number, rounded up; 0.07 of 100 is 7, which it is not in floating point."""
    return ceil(Fraction(str(share)) * count)


Weigh = Callable[[Sent, Accepted], tuple[float, float]]
Labels = Callable[[Sent], tuple[int, ...] | None]


class Fold:
    """Takes the replies of one round: guard first, then add, then forget.

    Args:
        average: buffers to add to; reset here.
        report: of this round; filled in.
        sent: the requests, in the round's order.
        codec: type of the encoded differences.
        weigh: numerator and denominator of a reply.
        labels: class rows that a reply may change, None for all.
    """

    def __init__(
        self, average: PartialAverage, report: RoundReport, sent: list[Sent], codec: str, weigh: Weigh, labels: Labels
    ) -> None:
        self._average, self._report, self._sent, self._codec = average, report, sent, codec
        self._weigh, self._labels = weigh, labels
        self._sums: dict[str, float] = {}
        self._examples = 0.0
        self._taken: set[int] = set()
        self._learnt: list[tuple[Node, Mapping[str, float]]] = []
        average.reset()

    def take(self, i: int, message: Message | None) -> None:
        """Take the reply to request `i` (None: it did not come)."""
        began = perf_counter()
        sent = self._sent[i]
        try:
            if i in self._taken:
                raise Rejected("duplicate")
            accepted = check(message, sent.nonce, sent.part, self._codec)
            numerator, denominator = self._weigh(sent, accepted)
            try:
                self._average.add(sent.part, accepted.difference, numerator, denominator, self._labels(sent))
            except ValueError as error:
                raise Rejected(str(error)) from None
        except Rejected as rejected:
            self._report.rejected.append(Rejection(sent.node.id, str(rejected)))
        else:
            self._taken.add(i)
            self._count(sent, accepted)
        self._report.seconds["fold"] = self._report.seconds.get("fold", 0.0) + perf_counter() - began

    def odd(self, message: Message, reason: str) -> None:
        """Count a message that answers no open request."""
        answered = message.metadata.reply_to_message_id
        node = next((s.node.id for s in self._sent if s.message.metadata.message_id == answered), None)
        self._report.rejected.append(Rejection(node, reason))

    def _count(self, sent: Sent, accepted: Accepted) -> None:
        report, metrics = self._report, accepted.metrics
        examples = metrics["num-examples"]
        report.accepted += 1
        report.bytes_up += accepted.bytes_up
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
        self._learnt.append((sent.node, metrics))

    def learn(self) -> None:
        """Note what the replies said of their nodes; not done for a round that is abandoned."""
        for node, metrics in self._learnt:
            node.last_loss, node.last_round = metrics.get("loss"), self._report.number
            node.last_seconds = metrics.get("seconds")

    def enough(self, quorum: float) -> bool:
        """Whether the round has the replies it needs; at least one in any case."""
        return self._report.accepted >= max(1, share_of(quorum, len(self._sent)))


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
