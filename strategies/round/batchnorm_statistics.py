"""What nodes are asked beside training: normalisation statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from models.algebra.plans import Plan
from models.randomness import generator
from models.statistics import channels_of_part, check_moments, moments_length
from protocol import MOMENTS, NodeId, bytes_in, decode
from protocol.statistics_request import MOST_PARTS
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.update import Rejection, content_of, why_unusable
from strategies.method import Method
from strategies.nodes.patience import Patience
from strategies.robustness.moments import MomentPool
from strategies.round.parts import kept_part
from strategies.round.requests import StateCache, statistics_request
from strategies.tiers.tier import Tier


def ask_statistics(
    grid: Grid,
    context: RoundContext,
    *,
    method: Method,
    states: StateCache,
    nodes: Sequence[Node],
    tiers: Mapping[NodeId, Tier],
    wanted: Sequence[Tier],
    patience: Patience,
    report: RoundReport,
) -> dict[str, Tensor]:
    """Pool the moments of static batch norm in the part that each tier keeps.

    A node is asked once, about the tier it is in. Wider nodes stand in for tiers that have none of their own, because
    they can hold their parts. Of more nodes than `statistics-nodes` so many are drawn.

    Args:
        grid: where the nodes are.
        context: of the round.
        method: says what a tier keeps, and who can hold it.
        states: the state in question.
        nodes: all nodes, in order of their ids.
        tiers: tier by node; nodes without one are not asked.
        wanted: the tiers asked about.
        patience: asks.
        report: where bytes are counted and replies that are not used are named.

    Returns:
        tier name → pooled moments (float64); tiers that nobody answered for are absent.
    """
    nodes = _some(nodes, context)
    channels = {}
    plans: dict[str, Plan] = {}
    wanted_of: dict[NodeId, list[str]] = {}  # the tiers that each node is asked about
    for tier in wanted:
        plan = plans[tier.name] = kept_part(method, context, tier)
        channels[tier.name] = channels_of_part(context.network, plan)
        able = [node for node in nodes if node.id in tiers and method.can_hold(context, tiers[node.id], tier)]
        own = [node for node in able if kept_part(method, context, tiers[node.id]) == plan]
        for node in own or able:
            wanted_of.setdefault(node.id, []).append(tier.name)
    together = 1 if context.settings.slice_at == "server" else MOST_PARTS
    asked: list[tuple[NodeId, list[str], str, Message]] = []
    for node in nodes:
        names = wanted_of.get(node.id, [])
        for some in (names[at : at + together] for at in range(0, len(names), together)):
            request = statistics_request(context, node, [plans[name] for name in some], states=states)
            asked.append((node.id, some, *request))
    examples = {node.id: node.examples for node in nodes}

    def leave_out(node: NodeId, why: str) -> None:
        report.rejected.append(Rejection(node, f"statistics: {why}"))

    pool = MomentPool(channels, guard=context.settings.guard.guard, left_out=leave_out)

    def take(i: int, message: Message | None) -> None:
        node, names, nonce, _ = asked[i]
        lengths = [moments_length(list(channels[name].values())) for name in names]
        try:
            array = content_of(message, nonce, MOMENTS).array
            assert array is not None  # content_of asked for one
            parts = dict(zip(names, torch.split(decode(array, sum(lengths), "float64"), lengths), strict=True))
            for name, moments in parts.items():
                check_moments(moments, channels[name])
            report.survey_bytes["up"] += len(array.data)
        except Exception as error:  # the others' will do
            leave_out(node, why_unusable(error))
        else:
            for name, moments in parts.items():
                pool.add(name, node, moments, examples[node])

    messages = [message for *_, message in asked]
    report.survey_bytes["down"] += sum(bytes_in(message.content) for message in messages)
    waited = patience.ask(
        grid,
        messages,
        take,
        whom=[node for node, *_ in asked],
        number=context.round_number,
        seconds=context.settings.wait,
    )
    report.waiting["statistics"] = waited.to_row()
    return pool.pooled()


def _some(nodes: Sequence[Node], context: RoundContext) -> Sequence[Node]:
    """As many of the nodes as are asked at most, in their order."""
    most = context.settings.statistics_nodes
    if len(nodes) <= most:
        return nodes
    draws = generator(context.settings.seed, context.round_number, "server", "statistics")
    return [nodes[i] for i in sorted(draws.choice(len(nodes), most, replace=False).tolist())]
