"""What the nodes that were chosen are asked to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message

from models.algebra.plans import Plan
from protocol import NodeId
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.fleet import mean_examples
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.method import Method, Values
from strategies.round.parts import on_base
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
        left_out: nodes whose replies are not used → the round after which that was decided.
    """

    context: RoundContext
    report: RoundReport
    assignments: list[TrainAssignment] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    bytes_down: list[int] = field(default_factory=list)
    secure: SecureSums | None = None
    left_out: Mapping[NodeId, int] = field(default_factory=dict)


def parts_of_round(
    method: Method, context: RoundContext, values: Values, participants: Sequence[Participant]
) -> tuple[list[Plan], Values]:
    """Which part each node of a round gets, and what the method remembers; see `Method.plan_round`."""
    plans, values = method.plan_round(context, values, participants)
    each = zip(plans, participants, strict=True)
    return [on_base(plan, one.tier) if one.tier.precision else plan for plan, one in each], values


def assigned(
    context: RoundContext,
    participants: Sequence[Participant],
    *,
    method: Method,
    states: StateCache,
    pieces: Pieces,
    nodes: Sequence[Node],
) -> list[TrainAssignment]:
    """What the nodes of a round are asked to train; what the method remembers goes on with it.

    Args:
        context: of the round.
        participants: who, in the round's order.
        method: says which part, what to optimise, and how.
        states: the present states.
        pieces: know what is kept of the nodes.
        nodes: that are there.
    """
    alphas = _alphas(context, participants, nodes)
    plans, pieces.memory.values = parts_of_round(method, context, pieces.memory.values, participants)
    uplink, history, found = pieces.uplink, pieces.selection.history, list[TrainAssignment]()
    for one, plan, alpha in zip(participants, plans, alphas, strict=True):
        node, tier = one.node, one.tier
        nonce, part = new_nonce(), states.part_to_train(plan, one.clusters[0])
        asked = TrainAssignment(
            node=node,
            tier=tier.name,
            plan=plan,
            part=part,
            nonce=nonce,
            optimiser=method.optimiser(context, tier),
            objective=method.objective(context, tier),
            work=pieces.work_of(tier),
            clusters=one.clusters,
            trains=one.trains,
            codec=uplink.text,
            codec_base=uplink.base(node.id, part) if uplink.remembers else 0,
            last_counted=history.last_counted(node.id),
            weight=one.weight,
            dynamic_alpha=alpha,
            asked_in=context.round_number,
        )
        found.append(asked)
    return found


def _alphas(context: RoundContext, participants: Sequence[Participant], nodes: Sequence[Node]) -> list[float]:
    """FedDyn's α of every device that trains: everybody's, or α · mean n / n_k (`dynamic-by-examples`)."""
    alpha, by_examples = context.settings.dynamic_alpha, context.settings.dynamic_by_examples
    usual = mean_examples(nodes) if by_examples else 0.0
    each = [alpha * usual / one.node.examples if by_examples else alpha for one in participants]
    return [own if one.trains else 0.0 for own, one in zip(each, participants, strict=True)]
