"""Scores of the state on the nodes' own test examples: asked, read, averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from models.algebra.rates import share_of
from models.randomness import generator
from protocol import EVALUATE, NodeId, bytes_in
from strategies.context import RoundContext
from strategies.exchange.node import Node
from strategies.exchange.report import LocalScore, RoundReport
from strategies.exchange.update import MOST_EXAMPLES, content_of
from strategies.method import Method
from strategies.nodes.history import NodeHistory
from strategies.nodes.patience import Patience
from strategies.robustness.examples import most_examples
from strategies.robustness.last_said import LEAST
from strategies.robustness.options import GuardOptions
from strategies.round.parts import kept_part
from strategies.round.requests import StateCache, part_request
from strategies.selection.comparable import believed
from strategies.tiers.tier import Tier

SCORES = ("loss", "accuracy", "accuracy-own-labels")
# Of a node that was sent several states, to choose from or that its cluster went through.
_MOST_LOSS = 1e100  # of a mean; beyond that no number of it could be squared
IF_ASKED = ("cluster", "accuracy-test-identity", "accuracy-best-on-path", "accuracy-end-of-path", "score")
_SHARES = frozenset({"f1", "balanced-accuracy", "auc"})  # of what may be asked for as "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """A request to score, and what the server remembers of it.

    Attributes:
        node: who is asked.
        tier: the node's tier this round.
        nonce: the name of the request.
        message: the request itself.
        metric: what it asks for besides loss and accuracy; "" is nothing.
    """

    node: NodeId
    tier: str
    nonce: str
    message: Message
    metric: str = ""


def score_requests(
    context: RoundContext,
    *,
    method: Method,
    states: StateCache,
    nodes: Sequence[Node],
    tiers: Mapping[NodeId, Tier],
    history: NodeHistory,
) -> list[ScoreRequest]:
    """Ask a share of the nodes to score the part that their tier keeps on their own test examples.

    Args:
        context: of the round; its settings say how large a share, 0 is none.
        method: says what a tier keeps.
        states: what the requests carry.
        nodes: who is there.
        tiers: tier by node; nodes without one are not asked.
        history: knows which reply of a node was the last one that counted.
    """
    settings = context.settings
    able = nodes if len(tiers) == len(nodes) else [node for node in nodes if node.id in tiers]
    if not settings.fraction_evaluate or not able:
        return []
    draws = generator(settings.seed, context.round_number, "server", "evaluate")
    count = share_of(settings.fraction_evaluate, len(able))
    kept = {tier.name: kept_part(method, context, tier) for tier in settings.tiers}
    asked = []
    for i in sorted(draws.choice(len(able), count, replace=False)):
        node, tier = able[i], tiers[able[i].id].name
        counted = history.last_counted(node.id)
        nonce, message = part_request(context, EVALUATE, node, kept[tier], states=states, counted=counted, on_path=True)
        asked.append(ScoreRequest(node=node.id, tier=tier, nonce=nonce, message=message, metric=settings.metric))
    return asked


def ask_scores(
    grid: Grid,
    requests: Sequence[ScoreRequest],
    report: RoundReport,
    *,
    patience: Patience,
    amend: Callable[[list[Message]], list[Message]] | None,
    seconds: float,
    guard: GuardOptions,
) -> None:
    """Send requests to score, and put what came back into the report.

    Args:
        grid: where the nodes are.
        requests: none leaves the report's scores empty.
        report: filled in.
        patience: asks.
        amend: what else becomes of the messages before they are sent; None: nothing.
        seconds: how long to wait.
        guard: whether scores are held against each other.
    """
    replies: list[Message | None] = [None] * len(requests)
    if requests:
        messages = [request.message for request in requests]
        if amend is not None:
            messages = amend(messages)
        report.survey_bytes["down"] += sum(bytes_in(m.content) for m in messages)
        whom, take = [request.node for request in requests], replies.__setitem__
        waited = patience.ask(grid, messages, take, whom=whom, number=report.number, seconds=seconds)
        report.waiting["local evaluation"] = waited.to_row()
    note_scores(requests, replies, report, guard=guard)


def note_scores(
    requests: Sequence[ScoreRequest], replies: Sequence[Message | None], report: RoundReport, *, guard: GuardOptions
) -> None:
    """Put the answers to requests, in their order, into the report."""
    found = [read_score(request, reply) for request, reply in zip(requests, replies, strict=True)]
    report.scores = [score for score in found if score is not None]
    report.local = mean_scores(_believed(report.scores, guard))


def _believed(scores: list[LocalScore], guard: GuardOptions) -> list[LocalScore]:
    """Scores for a mean over all, in which none counts as many more examples, nor a far larger loss, than the others'.

    What devices said of themselves stays as it is: each counts once in fairness, and an honest one may be the worst.
    """
    most = most_examples([int(score.examples) for score in scores], guard)
    losses = np.array([score.metrics["loss"] for score in scores])
    if guard.guard and len(scores) >= LEAST:
        losses = believed(losses)
    return [
        replace(score, examples=min(score.examples, most), metrics={**score.metrics, "loss": loss})
        for score, loss in zip(scores, losses.tolist(), strict=True)
    ]


def read_score(request: ScoreRequest, message: Message | None) -> LocalScore | None:
    """Read an answer; None if it did not come, cannot be used, or the node has no test examples."""
    try:
        metrics = content_of(message, request.nonce, None).metrics
    except Exception:  # whatever it says, the others' are there
        return None
    examples = metrics.get("num-examples", 0.0)
    shares = [metrics[key] for key in (*SCORES, *IF_ASKED) if key.startswith("accuracy") and key in metrics]
    usable = metrics.keys() >= set(SCORES) and all(0 <= share <= 1 for share in shares)
    most = 1.0 if request.metric in _SHARES else _MOST_LOSS
    usable = (
        usable
        and 0 < examples <= MOST_EXAMPLES
        and 0 <= metrics["loss"] <= _MOST_LOSS
        and 0 <= metrics.get("score", 0.0) <= most
    )
    found = {key: metrics[key] for key in (*SCORES, *IF_ASKED) if key in metrics}
    return LocalScore(node=request.node, tier=request.tier, examples=examples, metrics=found) if usable else None


def mean_scores(scores: Sequence[LocalScore]) -> dict[str, float]:
    """Means over all nodes' test examples; {} without scores."""
    total = sum(score.examples for score in scores)
    return {key: sum(s.examples * s.metrics[key] for s in scores) / total for key in SCORES} if scores else {}
