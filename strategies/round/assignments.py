"""From the nodes that were chosen to what each of them is asked to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.algebra.plans import Plan
from protocol import NodeId
from strategies.clustering.base import Clustering
from strategies.context import RoundContext
from strategies.exchange.assignment import Participant, TrainAssignment
from strategies.exchange.node import Node
from strategies.method import Method
from strategies.round.pieces import Pieces
from strategies.round.requests import StateCache, nonce_of
from strategies.tiers.tier import Tier


def participants(
    context: RoundContext,
    clusters: Clustering,
    chosen: Sequence[tuple[Node, float]],
    tiers: Mapping[NodeId, Tier],
) -> list[Participant]:
    """Whom a method plans for.

    Args:
        context: of the round.
        clusters: may give a node the plan of an earlier round.
        chosen: nodes and their weights, in the round's order.
        tiers: tier by node.
    """
    return [
        clusters.participant(node, tiers[node.id], weight=weight, round_number=context.round_number)
        for node, weight in chosen
    ]


def assign(
    context: RoundContext, participant: Participant, plan: Plan, *, method: Method, states: StateCache, pieces: Pieces
) -> TrainAssignment:
    """What a node is asked to train.

    Args:
        context: of the round.
        participant: who.
        plan: which part.
        method: says what to optimise, and how.
        states: the present states.
        pieces: know what is kept of the node.
    """
    node, tier = participant.node, participant.tier
    part = states.part_to_train(plan, participant.clusters[0])
    return TrainAssignment(
        node=node,
        tier=tier.name,
        plan=plan,
        part=part,
        nonce=nonce_of(context, node.id),
        objective=method.objective(context, tier),
        optimiser=method.optimiser(context, tier),
        work=pieces.work_of(tier),
        clusters=participant.clusters,
        trains=participant.trains,
        codec=pieces.uplink.text,
        codec_base=pieces.uplink.base(node.id, part),
        last_counted=pieces.selection.last_counted(node.id),
        weight=participant.weight,
    )
