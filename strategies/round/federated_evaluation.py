"""Scores of the state on the nodes' own test examples: asked, read, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message

from models.algebra.plans import Plan
from protocol import EVALUATE, NodeId
from strategies.exchange.node import Node
from strategies.exchange.report import LocalScore
from strategies.exchange.update import Rejected, content_of
from strategies.round.requests import RequestFactory
from strategies.tiers.tier import Tier

SCORES = ("loss", "accuracy", "accuracy-own-labels")
# Of a node that was sent several states, to choose from or that its cluster went through.
IF_ASKED = ("cluster", "accuracy-test-identity", "accuracy-best-on-path", "accuracy-end-of-path")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """A request to score, and what the server remembers of it.

    Attributes:
        node: who is asked.
        tier: the node's tier this round.
        nonce: the name of the request.
        message: the request itself.
    """

    node: NodeId
    tier: str
    nonce: str
    message: Message


def score_requests(
    outbox: RequestFactory, nodes: Sequence[Node], tiers: Mapping[NodeId, Tier], kept: Mapping[str, Plan]
) -> list[ScoreRequest]:
    """Ask nodes to score their tier's part (by tier name) on their own test examples."""
    asked = []
    for node in nodes:
        tier = tiers[node.id].name
        nonce, message = outbox.ask(EVALUATE, node, kept[tier], on_path=True)
        asked.append(ScoreRequest(node=node.id, tier=tier, nonce=nonce, message=message))
    return asked


def read_score(request: ScoreRequest, message: Message | None) -> LocalScore | None:
    """Read an answer; None if it did not come, cannot be used, or the node has no test examples."""
    try:
        metrics = content_of(message, request.nonce, None).metrics
    except Rejected:
        return None
    examples = metrics.get("num-examples", 0.0)
    shares = [metrics[key] for key in (*SCORES, *IF_ASKED) if key.startswith("accuracy") and key in metrics]
    usable = examples > 0 and metrics.keys() >= set(SCORES) and all(0 <= share <= 1 for share in shares)
    found = {key: metrics[key] for key in (*SCORES, *IF_ASKED) if key in metrics}
    return LocalScore(node=request.node, tier=request.tier, examples=examples, metrics=found) if usable else None


def mean_scores(scores: Sequence[LocalScore]) -> dict[str, float]:
    """Means over all nodes' test examples; {} without scores."""
    total = sum(score.examples for score in scores)
    return {key: sum(s.examples * s.metrics[key] for s in scores) / total for key in SCORES} if scores else {}
