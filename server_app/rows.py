"""A round's line of metrics: what `metrics.jsonl` says of it."""

from __future__ import annotations

import signal
from math import isnan
from typing import Any

from models.evaluation import Scores
from server_app.folder.settle import stopped_by
from server_app.metrics import ClientFigure
from strategies.exchange.report import RoundReport
from strategies.round.fairness import fairness_by_tier

Row = dict[str, Any]


def row_of(report: RoundReport, figure: ClientFigure) -> Row:
    """A round's line, without its scores.

    Args:
        report: of the round.
        figure: what is said of how each device does on its own test examples.
    """
    row: Row = {
        "round": report.number,
        "abandoned": report.abandoned,
        "selected": list(report.selected),
        "selected_tiers": dict(report.selected_tiers),
        "selected_ever": report.selected_ever,
        "accepted": report.accepted,
        "rejected": [{"node": r.node, "reason": r.reason} for r in report.rejected],
        "train_loss": report.train_loss,
        "train_accuracy": report.train_accuracy,
        "coverage": dict(report.coverage),
        "bytes_down": report.bytes_down,
        "bytes_up": report.bytes_up,
        "entropy_bytes_up": round(report.entropy_bytes_up),
        "bytes_survey_down": report.survey_bytes["down"],
        "bytes_survey_up": report.survey_bytes["up"],
        "seconds": dict(report.seconds),
        "client_seconds": dict(report.client_seconds),
        "waiting_seconds": {phase: dict(waited) for phase, waited in report.waiting.items()},
    }
    if report.resting:
        row["resting"] = list(report.resting)
    if report.withdrawn:
        row["withdrawn"] = list(report.withdrawn)
    if report.clusters:
        row["clusters"] = dict(report.clusters)
    if report.virtual:
        row["virtual_seconds"], row["virtual_elapsed"] = report.virtual["round"], report.virtual["elapsed"]
    if report.buffer:
        row["buffer"] = dict(report.buffer)
    if report.guard:
        row["guard"] = dict(report.guard)
    if report.secure:
        row["secure"] = [dict(group) for group in report.secure]
    if report.local:
        row["local"] = {key.replace("-", "_"): value for key, value in report.local.items()}
        said = [(score, figure.of(score.metrics)) for score in report.scores]
        found = [(score, value) for score, value in said if value is not None]
        scores = [(score.tier, value) for score, value in found]
        if scores:
            row["fairness"] = fairness_by_tier(scores, higher=figure.higher, share=figure.share)
            if figure.name != "accuracy":
                row["fairness"]["metric"] = figure.name
        row["clients"] = {str(score.node): value for score, value in found}
    return row


def row_of_scores(scores: Scores, headline: str = "accuracy") -> Row:
    """How one network predicts; where more was measured than loss and accuracy, "score" is the headline's value."""
    row: Row = {"loss": scores.own.loss, "accuracy": None if isnan(scores.own.accuracy) else scores.own.accuracy}
    if scores.more:
        row |= {"score": scores.more[headline], "metrics": dict(scores.more)}
    if scores.ensemble is not None:  # exits or nets, each by itself and their mean of logits
        row |= {"each": [score.accuracy for score in scores.each], "ensemble": scores.ensemble.accuracy}
    if scores.robust is not None:
        row["robust"] = scores.robust
    return row


def one_line(error: BaseException) -> str:
    """What went wrong, for the summary; of an interrupt as `server_app.folder.settle` says it of a signal."""
    if isinstance(error, KeyboardInterrupt):
        return stopped_by(signal.SIGINT)
    return f"{type(error).__name__}: {error}".splitlines()[0]
