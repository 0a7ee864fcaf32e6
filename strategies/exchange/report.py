"""What happened in a round, for the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from protocol import NodeId
from strategies.exchange.update import Rejection


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
        accepted: replies that were added.
        moved: whether any of them was more than zeros, and weighed more than nothing.
        rejected: replies that were not, and why.
        abandoned: whether the model was left as it was for want of replies.
        train_loss: mean training loss over accepted replies, weighted by examples; None without replies.
        train_accuracy: share of right predictions while training, weighted by examples.
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
        resting: nodes that were there and not asked, because they have not answered for some rounds.
        waiting: phase → where the seconds of asking went (see `strategies.exchange.messaging.Waited`).
        buffer: of buffered rounds, how old the states were that replies began with, and how many train on; else {}.
        secure: of secure aggregation, what became of each group; [] without it.
        guard: bounds, what was clipped, what was spent of a privacy budget; {} if all of that is off.
    """

    number: int
    selected: list[NodeId] = field(default_factory=list)
    selected_tiers: dict[str, int] = field(default_factory=dict)
    selected_ever: int = 0
    accepted: int = 0
    moved: bool = False
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
    survey_bytes: dict[str, int] = field(default_factory=partial(dict, down=0, up=0))
    local: dict[str, float] = field(default_factory=dict)
    scores: list[LocalScore] = field(default_factory=list)
    clusters: dict[str, Any] = field(default_factory=dict)
    virtual: dict[str, float] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    buffer: dict[str, float] = field(default_factory=dict)
    secure: list[dict[str, Any]] = field(default_factory=list)
    wanted: int = 0
    withdrawn: list[NodeId] = field(default_factory=list)
    resting: list[NodeId] = field(default_factory=list)
    waiting: dict[str, dict[str, float]] = field(default_factory=dict)

    def changed_nothing(self) -> str:
        """Why a round that was not abandoned left the model as it was; "" where it did not."""
        if self.abandoned or not self.accepted:
            return ""
        if not self.moved:
            return "every difference that came was zero, or weighed nothing"
        few = "every coordinate had too few holders (min-cover, guard-mean), or no reply was left"
        return "" if self.coverage["round"] else few
