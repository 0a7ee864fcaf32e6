"""Fairness: the measures (I7), and what a run writes of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_app.folder.events import scalars
from strategies.round.fairness import fairness, fairness_by_tier
from tests.support import Player, configured, tier_of

ACCURACIES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@settings(deadline=None)
@given(ACCURACIES)
def test_it_is_the_plain_arithmetic(accuracies: list[float]) -> None:
    a, found = np.array(accuracies), fairness(accuracies)
    tenth, ones = max(1, len(a) // 10), np.ones(len(a))
    assert found["clients"] == len(a)
    assert found["mean"] == pytest.approx(a.mean(), abs=1e-12)
    assert found["variance_points2"] == pytest.approx((100 * a).var(), abs=1e-9)
    assert found["worst_10_percent_mean"] == pytest.approx(np.sort(a)[:tenth].mean(), abs=1e-12)
    assert found["best_10_percent_mean"] == pytest.approx(np.sort(a)[::-1][:tenth].mean(), abs=1e-12)
    assert found["percentile_10"] == pytest.approx(np.quantile(a, 0.1), abs=1e-12)
    if a.sum() > 1e-6:
        cosine = a @ ones / (np.linalg.norm(a) * np.linalg.norm(ones))
        assert math.cos(found["angle"]) == pytest.approx(cosine, abs=1e-9)
        shares = a / a.sum()
        shares = shares[shares > 0]
        assert found["kl_uniform"] == pytest.approx((shares * np.log(shares * len(a))).sum(), abs=1e-9)


@settings(deadline=None)
@given(ACCURACIES)
def test_bounds_and_order(accuracies: list[float]) -> None:
    found = fairness(accuracies)
    assert all(math.isfinite(value) for value in found.values())
    slack = 1e-12
    assert found["worst_10_percent_mean"] <= found["mean"] + slack
    assert found["mean"] <= found["best_10_percent_mean"] + slack
    assert 0 <= found["kl_uniform"] <= math.log(len(accuracies)) + slack
    assert 0 <= found["angle"] <= math.pi / 2
    assert 0 <= found["variance_points2"] <= 2500 + 1e-9
    assert fairness(accuracies[::-1]) == found  # bit for bit, whoever answered first


@given(st.floats(0, 1), st.integers(1, 50))
def test_nobody_is_served_better_than_others(accuracy: float, count: int) -> None:
    found = fairness([accuracy] * count)
    assert found["variance_points2"] == pytest.approx(0, abs=1e-20)
    assert found["angle"] == pytest.approx(0, abs=1e-12)
    assert found["kl_uniform"] == pytest.approx(0, abs=1e-12)
    for key in ("worst_10_percent_mean", "best_10_percent_mean", "percentile_10"):
        assert found[key] == pytest.approx(accuracy, abs=1e-12)


def test_one_client_wins() -> None:
    found = fairness([0.0] * 22 + [1.0])
    assert found["angle"] == pytest.approx(math.acos(1 / math.sqrt(23)))
    assert found["kl_uniform"] == pytest.approx(math.log(23))
    assert found["best_10_percent_mean"] == 0.5  # 2 of 23, as in the paper's table


def test_a_percentile_is_no_mean_of_the_worst() -> None:
    found = fairness([0.0, 0.0, *[0.5] * 18])
    assert found["worst_10_percent_mean"] == 0.0
    assert found["percentile_10"] == pytest.approx(0.45)


def test_nobody() -> None:
    with pytest.raises(ValueError, match="one client or more"):
        fairness([])


def test_of_errors_the_worst_are_the_largest() -> None:
    errors = [float(number) for number in range(1, 21)]
    found = fairness(errors, higher=False, share=False)
    assert (found["worst_10_percent_mean"], found["best_10_percent_mean"]) == (19.5, 1.5)
    assert found["percentile_10"] == pytest.approx(18.1)
    assert found["variance"] == pytest.approx(np.var(errors))
    assert "variance_points2" not in found
    assert fairness_by_tier([("a", 2.0), ("a", 5.0)], higher=False)["tiers"]["a"]["worst_10_percent_mean"] == 5.0


def test_each_tier_by_itself() -> None:
    scores = [("b", 0.2), ("a", 0.9), ("b", 0.4)]
    found = fairness_by_tier(scores)
    assert list(found["tiers"]) == ["a", "b"]
    assert {key: value for key, value in found.items() if key != "tiers"} == fairness([0.2, 0.9, 0.4])
    assert found["tiers"]["b"] == fairness([0.2, 0.4])


def test_a_run_writes_it(play: Player) -> None:
    keys: dict[str, Any] = {"method": "heterofl", "fraction_evaluate": 1.0, "local_test_fraction": 0.3}
    out = play.once(**keys)
    config = configured(**keys)
    tier = {i: tier_of(config.strategy(), i).name for i in range(6)}
    for row in out.rows:
        assert list(row["clients"]) == [str(i) for i in range(6)]
        assert row["fairness"] == fairness_by_tier([(tier[i], row["clients"][str(i)]) for i in range(6)])
        tags = dict(scalars(row))
        assert tags["fairness/tiers/a/mean"] == row["fairness"]["tiers"]["a"]["mean"]
        assert not any(tag.startswith("clients") for tag in tags)
    assert "fairness" not in play.once(method="heterofl").rows[-1]


def test_a_resumed_run_goes_on_with_it(play: Player) -> None:
    keys: dict[str, Any] = {"method": "heterofl", "fraction_evaluate": 0.5, "num_server_rounds": 3}
    half = play(**keys | {"num_server_rounds": 1})
    resumed, whole = play(**keys, resume=str(half.path)), play(**keys)
    for key in ("clients", "fairness", "local"):
        assert [row[key] for row in resumed.rows] == [row[key] for row in whole.rows]
