"""The study's parts: the regression finds what was put in, runs are what their case says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.experiments.study import regression, runs, tables
from benchmarks.experiments.study.runs import CLIENTS, NOISY, Case, Outcome, run


def _planted(seed: int, size: float, loss: float, product: float, rounds: int = 60) -> regression.Run:
    """Rounds whose loss falls by known shares of what the clients were."""
    draws = np.random.default_rng(seed)
    chosen = [[(float(n), float(v)) for n, v in draws.normal((3.0, 0.0), (0.8, 0.5), (8, 2))] for _ in range(rounds)]
    losses = [5.0]
    for clients in chosen[1:]:
        gain = np.mean([size * (n - 3.0) + loss * v + product * (n - 3.0) * v for n, v in clients])
        losses.append(losses[-1] - float(gain) - 0.03 + float(draws.normal(0, 0.005)))
    return regression.Run(losses, chosen)


def test_the_regression_finds_what_was_put_in() -> None:
    found = regression.fit({seed: _planted(seed, 0.1, 0.0, 0.2) for seed in range(8)})
    assert found.low["log n_eff"] > 0
    assert found.low["product"] > 0
    assert abs(found.coefficients["log loss"]) < 0.1 * found.coefficients["log n_eff"]
    assert found.rounds == 8 * 59
    assert 0.5 < found.added <= found.explained <= 1
    # Per standard deviation of the mean of 8 draws.
    assert found.coefficients["log n_eff"] == pytest.approx(0.1 * 0.8 / 8**0.5, rel=0.15)


def test_the_regression_finds_nothing_in_noise() -> None:
    found = regression.fit({seed: _planted(seed, 0.0, 0.0, 0.0) for seed in range(8)})
    assert all(found.low[name] < 0 < found.high[name] for name in regression.NAMES)


@pytest.mark.slow
def test_one_run_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "ROUNDS", 3)
    monkeypatch.setitem(runs.COMMON, "num-server-rounds", 3)
    case = Case(data=0.0, loss=0.0, lateness=0.0, correlation=1, noise=True, seed=1, everybody=True)
    found = run(case)
    assert found == run(case)  # nothing of it is this machine's
    assert len(found.accuracy) == len(found.loss) == len(found.seconds) == len(found.chosen) == 3
    assert sorted(found.seconds) == found.seconds
    assert found.seconds[0] > 0
    assert all(len(clients) == CLIENTS // 5 for clients in found.chosen)
    assert sum(found.updates.values()) == pytest.approx(1)
    assert 0 <= found.worst <= 1
    assert 0 < found.noisy < 2 / NOISY


def test_tables_pair_runs_of_one_seed() -> None:
    def outcome(accuracy: float) -> Outcome:
        tiers = {"a": accuracy, "b": accuracy, "c": accuracy}
        return Outcome(
            accuracy=[accuracy],
            loss=[1.0],
            seconds=[2.0],
            tiers=tiers,
            variance=4.0,
            worst=accuracy,
            updates={"a": 1.0, "b": 0.0, "c": 0.0},
            noisy=0.0,
            chosen=[],
        )

    results = {
        Case(data=a, loss=0.0, lateness=0.0, correlation=0, noise=False, seed=seed): outcome(
            0.5 + 0.1 * a + 0.01 * seed
        )
        for a in (0.0, 1.0)
        for seed in (1, 2)
    }
    assert "| a: 0 → 1 (b = 0) | +10.0 ± 0.0 |" in tables.effects(results)
    row = tables.rules(results, 0, False).splitlines()[-1]
    assert row.startswith("| 1 | 0 | 0 | - | - | 61.5 |")
