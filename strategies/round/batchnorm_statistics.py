"""What nodes are asked beside training: normalisation statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from models.algebra.plans import Plan
from models.networks.build import build_part
from models.networks.spec import NetworkSpec
from models.statistics import channels_of, check_moments, moments_length
from protocol import MOMENTS, STATISTICS, NodeId, bytes_of, decode
from strategies.exchange.messaging import exchange
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.update import Rejected, Rejection, content_of
from strategies.round.requests import RequestFactory
from strategies.tiers.tier import Tier


def ask_statistics(
    grid: Grid,
    network: NetworkSpec,
    outbox: RequestFactory,
    nodes: Sequence[Node],
    tiers: Mapping[NodeId, Tier],
    kept: Mapping[Tier, Plan],
    of_tier: Callable[[Tier], Plan],
    can_hold: Callable[[Tier, Tier], bool],
    seconds: float,
    report: RoundReport,
) -> dict[str, Tensor]:
    """Pool the moments of static batch norm in the part that each tier keeps.

    A node is asked only about the tier it is in. Wider nodes stand in for a tier that has none of its own, because they
    can hold its part.

    Args:
        grid: where the nodes are.
        network: the global network.
        outbox: messages about the state in question.
        nodes: all nodes, in order of their ids.
        tiers: tier by node; nodes without one are not asked.
        kept: the tiers asked about, and the part that each keeps.
        seconds: how long to wait.
        of_tier: the part that a node of a tier keeps.
        can_hold: whether a tier can hold the part of another.
        report: where bytes are counted and replies that are not used are named.

    Returns:
        tier name → pooled moments (float64); tiers that nobody answered for are absent.
    """
    asked: list[tuple[str, NodeId, str, Message]] = []
    channels = {}
    for tier, plan in kept.items():
        with torch.device("meta"):
            channels[tier.name] = channels_of(build_part(network, plan))
        able = [node for node in nodes if node.id in tiers and can_hold(tiers[node.id], tier)]
        own = [node for node in able if of_tier(tiers[node.id]) == plan]
        asked += [(tier.name, node.id, *outbox.ask(STATISTICS, node, plan)) for node in own or able]
    pooled: dict[str, Tensor] = {}

    def take(i: int, message: Message | None) -> None:
        name, node, nonce, _ = asked[i]
        try:
            array = content_of(message, nonce, MOMENTS).array
            assert array is not None  # content_of asked for one
            moments = decode(array, moments_length(list(channels[name].values())), "float64")
            check_moments(moments, channels[name])
            report.survey_bytes["up"] += len(array.data)
        except (Rejected, ValueError) as error:
            report.rejected.append(Rejection(node, f"statistics: {error}"))  # the others' will do
        else:
            pooled[name] = moments.clone() if name not in pooled else pooled[name] + moments

    messages = [message for *_, message in asked]
    report.survey_bytes["down"] += sum(bytes_of(message.content.array_records["arrays"]) for message in messages)
    report.waiting["statistics"] = exchange(grid, messages, take, seconds=seconds).to_row()
    return pooled
