"""What nodes are asked beside training: normalisation statistics, and scores on their own data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import torch
from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from models.network import NetworkSpec, build_part
from models.plans import Plan
from models.statistics import channels_of, check_moments, moments_length
from protocol import EVALUATE, MOMENTS, STATISTICS, NodeId, Reply, WireError, bytes_of, decode
from strategies.exchange import exchange
from strategies.fleet import Node
from strategies.guard import Rejected, Rejection, content_of
from strategies.outbox import Outbox
from strategies.rounds import RoundReport
from strategies.tiers import Tier

SCORES = ("loss", "accuracy", "accuracy-own-labels")


def ask_statistics(
    grid: Grid, network: NetworkSpec, outbox: Outbox, nodes: Sequence[Node], tiers: Mapping[NodeId, Tier],
    kept: Mapping[Tier, Plan], can_hold: Callable[[Tier, Fraction], bool], seconds: float, report: RoundReport,
) -> dict[str, Tensor]:  # fmt: skip
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
        can_hold: whether a tier can hold a part of a rate.
        report: where bytes are counted and replies that are not used are named.

    Returns:
        tier name → pooled moments (float64); tiers that nobody answered for are absent.
    """
    asked: list[tuple[str, NodeId, str, Message]] = []
    channels = {}
    for tier, plan in kept.items():
        with torch.device("meta"):
            channels[tier.name] = channels_of(build_part(network, plan))
        able = [node for node in nodes if node.id in tiers and can_hold(tiers[node.id], tier.rate)]
        own = [node for node in able if tiers[node.id].rate == tier.rate]
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
    exchange(grid, messages, take, seconds=seconds)
    return pooled


def score_requests(
    outbox: Outbox, nodes: Sequence[Node], tiers: Mapping[NodeId, Tier], kept: Mapping[str, Plan]
) -> list[Message]:
    """Messages that ask nodes to score their tier's part (by tier name) on their own test examples."""
    return [outbox.ask(EVALUATE, node, kept[tiers[node.id].name])[1] for node in nodes]


def mean_scores(replies: Iterable[Message]) -> dict[str, float]:
    """Means over the nodes' own test examples, weighted by their number; unusable replies are left out."""
    sums = dict.fromkeys(SCORES, 0.0)
    total = 0.0
    for message in replies:
        metrics = _scores(message)
        examples = metrics.get("num-examples", 0.0)
        if examples > 0 and metrics.keys() >= set(SCORES):
            total += examples
            for key in SCORES:
                sums[key] += examples * metrics[key]
    return {key: value / total for key, value in sums.items()} if total else {}


def _scores(message: Message) -> Mapping[str, float]:
    try:
        return {} if message.has_error() else Reply.from_record(message.content, None).metrics
    except WireError:
        return {}
