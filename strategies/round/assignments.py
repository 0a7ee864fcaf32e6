"""What the nodes that were chosen are asked to train."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Message

from models.algebra.plans import Plan
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.report import RoundReport
from strategies.method import Method
from strategies.round.pieces import Pieces
from strategies.round.requests import StateCache, new_nonce
from strategies.round.secure_sums import SecureSums


@dataclass(slots=True, kw_only=True)
class Round:
    """The round under way, or the last one.

    Attributes:
        context: what hooks are told.
        report: what happened, so far.
        assignments: what nodes are asked to train, in the order in which replies are added.
        messages: the requests, in the same order. A run's own rounds let go of them once they have been sent; Flower's
            loop, which sends them itself, has them until the next round, as replies name them.
        bytes_down: encoded bytes of their arrays.
        secure: the groups whose sums are taken in place of replies; None takes each reply.
    """

    context: RoundContext
    report: RoundReport
    assignments: list[TrainAssignment] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    bytes_down: list[int] = field(default_factory=list)
    secure: SecureSums | None = None


def assign(
    context: RoundContext,
    participant: Participant,
    plan: Plan,
    *,
    method: Method,
    states: StateCache,
    pieces: Pieces,
    mean_examples: float,
) -> TrainAssignment:
    """What a node is asked to train.

    Args:
        context: of the round.
        participant: who.
        plan: which part.
        method: says what to optimise, and how.
        states: the present states.
        pieces: know what is kept of the node.
        mean_examples: of the nodes that are there.
    """
    node, tier = participant.node, participant.tier
    part = states.part_to_train(plan, participant.clusters[0])
    return TrainAssignment(
        node=node,
        tier=tier.name,
        plan=plan,
        part=part,
        nonce=new_nonce(),
        objective=method.objective(context, tier),
        optimiser=method.optimiser(context, tier),
        work=pieces.work_of(tier),
        clusters=participant.clusters,
        trains=participant.trains,
        codec=pieces.uplink.text,
        codec_base=pieces.uplink.base(node.id, part) if pieces.uplink.remembers else 0,
        last_counted=pieces.selection.history.last_counted(node.id),
        weight=participant.weight,
        dynamic_alpha=_dynamic_alpha(context, participant, mean_examples) if participant.trains else 0.0,
        asked_in=context.round_number,
    )


def _dynamic_alpha(context: RoundContext, participant: Participant, mean_examples: float) -> float:
    """FedDyn's α of a device: everybody's, or α · mean n / n_k (`dynamic-by-examples`)."""
    alpha = context.settings.dynamic_alpha
    if not (alpha and context.settings.dynamic_by_examples):
        return alpha
    return alpha * mean_examples / participant.node.examples
