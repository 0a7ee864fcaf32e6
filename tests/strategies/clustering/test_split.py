"""When a cluster is cut: the paper's three tests, and what is not compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.errors import SettingError
from strategies.clustering.split import SplitRule, judge
from strategies.clustering.updates import cosines_with
from tests.strategies.clustering.comparing import updates_of

OPPOSED = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, 0.12]])


def test_two_opposed_groups_are_cut() -> None:
    verdict = judge(updates_of(OPPOSED, [70, 30, 50, 10]), SplitRule(), 1.0)
    assert verdict.accepted
    assert verdict.cut is not None
    assert verdict.cut.groups == ((70, 30), (50, 10))
    assert verdict.mean < 0.35 < 0.5 < verdict.largest
    assert -1 <= verdict.cut.cross < -0.9 < 0.9 < verdict.cut.intra <= 1


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        (SplitRule(mean_norm=0), OPPOSED),  # nothing is below 0
        (SplitRule(mean_norm=0), OPPOSED * np.array([[1], [-1], [1], [-1]])),
        (SplitRule(largest_norm=0.75), OPPOSED),  # the members' root mean squares are 0.71
        (SplitRule(gamma=1), OPPOSED),
        (SplitRule(), OPPOSED + 1),  # still moving
        (SplitRule(), OPPOSED[1:3]),  # two members
        (SplitRule(), OPPOSED * np.array([[1], [1], [0], [0]])),  # and two that do not move
        (SplitRule(gamma=0.8), np.array([[1, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, -1, -1, 0.0]])),
    ],
)
def test_what_is_not_cut(rule: SplitRule, values: Any) -> None:
    assert not judge(updates_of(values), rule, 1.0).accepted


def test_the_noise_bound_is_the_paper_s() -> None:
    """γ < √((1 − α_cross)/2), whatever α_cross."""
    values = np.array([[1.0, 0.4], [1.0, -0.4], [-1.0, 0.8], [-1.0, -0.8]])
    cross = judge(updates_of(values), SplitRule(mean_norm=9), 1.0).cut
    assert cross is not None
    bound = np.sqrt((1 - cross.cross) / 2)
    for gamma in (bound - 0.01, bound + 0.01):
        assert judge(updates_of(values), SplitRule(mean_norm=9, largest_norm=0, gamma=min(gamma, 1)), 1.0).accepted == (
            gamma < bound
        )


def test_thresholds_are_relative() -> None:
    for scale in (1e-6, 1.0, 1e6):
        assert judge(updates_of(OPPOSED * scale), SplitRule(), scale).accepted


def test_a_zero_update_is_left_out_and_a_pair_that_shares_nothing_stops_the_cut() -> None:
    verdict = judge(updates_of([*OPPOSED, [0, 0]]), SplitRule(), 1.0)
    assert verdict.accepted
    assert verdict.cut is not None
    assert verdict.cut.groups == ((0, 1), (2, 3))
    held = np.array([[True, False], [True, True], [True, True], [False, True]])
    assert judge(updates_of(OPPOSED * held, held=held), SplitRule(), 1.0).cut is None


def test_members_that_share_few_coordinates_are_not_compared() -> None:
    draws = np.random.default_rng(0)
    for size, both, known in ((100, 40, False), (100, 50, True), (4000, 1023, False), (4000, 1024, True)):
        held = np.ones((2, 2 * size - both), bool)
        held[0, size:] = held[1, : size - both] = False
        values = np.where(held, draws.normal(size=held.shape), 0)
        assert np.isfinite(updates_of(values, held=held).cosines()[0, 1]) == known
        one, rows = values[1].astype(np.float32), values.astype(np.float32)
        assert np.isfinite(cosines_with(rows, held, one, held[1])[0]) == known


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"mean_norm": -0.1}, "cfl-mean-norm = -0.1: allowed is 0 or more"),
        ({"largest_norm": float("nan")}, "cfl-largest-norm = nan"),
        ({"gamma": 1.1}, "cfl-gamma = 1.1: allowed is 0 to 1"),
        ({"linkage": "ward"}, "cfl-linkage = 'ward'"),
    ],
)
def test_thresholds_that_are_none(keys: Any, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        SplitRule(**keys)
