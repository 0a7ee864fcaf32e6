"""What devices say of their own tests: as they say it where each counts once, held against each other in a mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from server_app.metrics import ClientFigure
from server_app.rows import row_of
from strategies.exchange.report import RoundReport
from strategies.robustness.options import GuardOptions
from strategies.round import federated_evaluation
from strategies.round.federated_evaluation import ScoreRequest, note_scores

LOSSES = [0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 3.0, 50.0]  # the last two are badly served, and say so


def row(monkeypatch: pytest.MonkeyPatch, said: list[dict[str, float]], figure: ClientFigure, guard: bool) -> Any:
    """A row of metrics of what devices said."""
    message: Any = object()  # nobody looks into it
    requests = [
        ScoreRequest(node=i, tier="a", nonce=str(i), message=message, metric=figure.asked) for i in range(len(said))
    ]

    def content_of(_: object, nonce: str, __: object) -> SimpleNamespace:
        return SimpleNamespace(metrics=said[int(nonce)])

    monkeypatch.setattr(federated_evaluation, "content_of", content_of)
    report = RoundReport(number=1)
    note_scores(requests, [message] * len(said), report, guard=GuardOptions(guard=guard))
    return row_of(report, figure)


@pytest.mark.parametrize("metric", ["loss", "mae"])
def test_each_counts_in_fairness_as_it_says_and_no_mean_is_one_devices(
    monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    said = [
        {"loss": loss, "score": loss, "accuracy": 0.5, "accuracy-own-labels": 0.5, "num-examples": 10.0}
        for loss in LOSSES
    ]
    found, bare = (row(monkeypatch, said, ClientFigure(name=metric), guard) for guard in (True, False))
    assert list(found["clients"].values()) == LOSSES
    assert found["fairness"] == bare["fairness"]
    assert found["fairness"]["worst_10_percent_mean"] == 50.0
    assert bare["local"]["loss"] == pytest.approx(sum(LOSSES) / 10)
    assert found["local"]["loss"] == pytest.approx((1.2 + 2.0 + 2.0) / 10)  # ten times the 0.75 quantile, 0.2
