"""Asks nodes which cluster they are in, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from models.algebra.plans import Plan
from protocol import LOSSES, Objective, bytes_in
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.update import Rejection, cluster_of, content_of, why_unusable
from strategies.nodes.patience import Patience
from strategies.round.requests import StateCache, loss_request


def ask_identities(
    grid: Grid,
    context: RoundContext,
    *,
    states: StateCache,
    nodes: Sequence[Node],
    plans: Sequence[Plan],
    clusters: int,
    patience: Patience,
    report: RoundReport,
) -> list[tuple[int, float]]:
    """Let nodes say which state fits them best, and with what loss (nats), in the order of the nodes.

    Args:
        grid: where the nodes are.
        context: of the first round.
        states: the present ones.
        nodes: whom to ask.
        plans: the part that each of them is asked about.
        clusters: number of states.
        patience: asks.
        report: where bytes are counted and replies that are not used are named.
    """
    pairs = zip(nodes, plans, strict=True)
    asked = [loss_request(context, LOSSES, node, plan, states=states, objective=Objective()) for node, plan in pairs]
    messages = [message for _, message in asked]
    found: list[tuple[int, float]] = []

    def take(i: int, message: Message | None) -> None:
        try:
            metrics = content_of(message, asked[i][0], None).metrics
            found.append((cluster_of(metrics, clusters), metrics.get("loss", 0.0)))
        except Exception as error:
            report.rejected.append(Rejection(nodes[i].id, f"identity: {why_unusable(error)}"))

    report.survey_bytes["down"] += sum(bytes_in(message.content) for message in messages)
    whom, number = [node.id for node in nodes], context.round_number
    patience.ask(grid, messages, take, whom=whom, number=number, seconds=context.settings.wait)
    return found
