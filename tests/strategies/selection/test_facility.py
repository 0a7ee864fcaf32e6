"""Facility location: the invariants D1 to D10 of the reference."""

from __future__ import annotations

from itertools import combinations
from math import e
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from strategies.selection.facility import distances, greedy, lazy, left_over, represented, stochastic


def points(seed: int, count: int, size: int = 5) -> Any:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def plain_greedy(distance: Any, count: int) -> list[int]:
    """One gain after the other, in plain Python; the first largest one is taken."""
    chosen: list[int] = []
    for _ in range(count):
        best, best_gain = -1, -np.inf
        for j in range(len(distance)):
            if j in chosen:
                continue
            if chosen:
                nearest = distance[chosen].min(axis=0)
                gain = float(np.maximum(nearest - distance[j], 0).sum())
            else:
                gain = -float(distance[j].sum())
            if gain > best_gain:
                best, best_gain = j, gain
        chosen.append(best)
    return chosen


clouds = st.builds(
    lambda seed, count, size, grid: np.round(points(seed, count, size) * grid) / grid if grid else points(seed, count),
    st.integers(0, 10_000),
    st.integers(1, 24),
    st.integers(1, 3),
    st.sampled_from([0, 1, 2]),
)


def test_distances_against_scipy() -> None:
    vectors = points(1, 60, 40)
    found = distances(vectors)
    np.testing.assert_allclose(found, cdist(vectors.astype(float), vectors.astype(float)), rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(clouds)
def test_distances_are_symmetric_and_zero_between_equals(vectors: Any) -> None:
    doubled = np.concatenate([vectors, vectors])
    found = distances(doubled)
    assert (found == found.T).all()
    assert (np.diag(found) == 0).all()
    assert (found[: len(vectors), len(vectors) :].diagonal() == 0).all()


def test_d9_a_changed_row_changes_its_row_and_column_only() -> None:
    vectors = points(2, 50, 33)
    before = distances(vectors)
    vectors[[3, 40]] += 1
    after = distances(vectors)
    changed = np.unique(np.argwhere(before != after))
    rest = np.setdiff1d(np.arange(50), [3, 40])
    assert {3, 40} <= set(changed.tolist())
    assert (before[np.ix_(rest, rest)] == after[np.ix_(rest, rest)]).all()


@settings(deadline=None)
@given(clouds, st.data())
def test_d3_lazy_is_greedy_is_one_gain_after_the_other(vectors: Any, data: Any) -> None:
    """Ties too: half of these clouds stand on a coarse grid."""
    distance, count = distances(vectors), data.draw(st.integers(1, len(vectors)))
    expected = plain_greedy(distance, count)
    assert greedy(distance, count).tolist() == expected
    assert lazy(distance, count).tolist() == expected


def test_d3_over_a_thousand() -> None:
    for grid in (0, 3):
        vectors = points(4, 1001, 6)
        distance = distances(np.round(vectors * grid) / grid if grid else vectors)
        assert lazy(distance, 30).tolist() == greedy(distance, 30).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 10), st.integers(1, 4))
def test_d1_within_one_minus_one_over_e_of_the_best(seed: int, count: int, chosen: int) -> None:
    distance = distances(points(seed, count, 2))
    auxiliary = count * float(distance.max())  # the value of the empty set, c for everybody
    best = max(auxiliary - left_over(distance, np.array(some)) for some in combinations(range(count), chosen))
    assert auxiliary - left_over(distance, lazy(distance, chosen)) >= (1 - 1 / e) * best


@settings(deadline=None)
@given(clouds)
def test_d2_more_is_better_and_helps_less_and_less(vectors: Any) -> None:
    distance = distances(vectors)
    picked = lazy(distance, len(distance))
    values = [left_over(distance, picked[:m]) for m in range(1, len(picked) + 1)]
    gains = -np.diff(values)
    assert (gains >= -1e-9).all()
    assert (np.diff(gains) <= 1e-9).all()


@settings(deadline=None)
@given(clouds)
def test_d4_everybody(vectors: Any) -> None:
    distance = distances(vectors)
    for algorithm in (greedy, lazy):
        picked = algorithm(distance, len(distance))
        assert sorted(picked.tolist()) == list(range(len(distance)))
        assert left_over(distance, picked) == 0
        assert (represented(distance, picked) == 1).all()


@pytest.mark.parametrize("algorithm", [greedy, lazy])
def test_d5_one_of_each_group(algorithm: Any) -> None:
    groups = np.random.default_rng(5).permutation(np.repeat(np.arange(7), 30))
    vectors = points(6, 7, 9)[groups]
    picked = algorithm(distances(vectors), 7)
    assert sorted(groups[picked].tolist()) == list(range(7))
    assert [int(np.flatnonzero(groups == groups[i])[0]) for i in picked] == picked.tolist()  # the lowest of each
    assert represented(distances(vectors), picked).tolist() == [30] * 7


@settings(deadline=None)
@given(clouds)
def test_d6_the_first_pick_is_the_medoid(vectors: Any) -> None:
    distance = distances(vectors)
    assert lazy(distance, 1)[0] == distance.sum(axis=1).argmin()


@settings(deadline=None)
@given(clouds, st.data())
def test_d7_everybody_is_represented_by_the_nearest(vectors: Any, data: Any) -> None:
    distance, count = distances(vectors), data.draw(st.integers(1, len(vectors)))
    picked = np.array(data.draw(st.permutations(range(len(vectors)))))[:count]
    gamma = represented(distance, picked)
    assert gamma.sum() == len(vectors)
    assert gamma.min() >= 1
    expected = dict.fromkeys(picked.tolist(), 0)
    for k in range(len(vectors)):
        nearest = k if k in expected else min(sorted(expected), key=lambda i: distance[k, i])
        expected[nearest] += 1
    assert gamma.tolist() == [expected[i] for i in picked.tolist()]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 24), st.data())
def test_d8_names_do_not_matter_but_for_ties(seed: int, count: int, data: Any) -> None:
    vectors, chosen = points(seed, count), data.draw(st.integers(1, count))
    order = np.array(data.draw(st.permutations(range(count))))
    picked = order[lazy(distances(vectors[order]), chosen)]
    # Two that are nearest to each other have equal gains, so what is invariant is that every pick is a best one.
    distance = distances(vectors)
    for m in range(1, chosen + 1):
        values = [left_over(distance, np.append(picked[: m - 1], j)) for j in range(count)]
        assert values[picked[m - 1]] == pytest.approx(min(values), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 24), st.data())
def test_d8_a_common_vector_changes_nothing(seed: int, count: int, data: Any) -> None:
    vectors = np.round(points(seed, count) * 256) / 256  # a sum with halves is exact then
    chosen = data.draw(st.integers(1, count))
    moved = vectors + np.array([0.5, -2, 16, 0, 1], dtype=np.float32)
    assert lazy(distances(vectors), chosen).tolist() == lazy(distances(moved), chosen).tolist()


@settings(deadline=None)
@given(clouds, st.data())
def test_d10_a_sample_of_everybody_is_greedy(vectors: Any, data: Any) -> None:
    distance, count = distances(vectors), data.draw(st.integers(1, len(vectors)))
    draws = np.random.default_rng(0)
    assert stochastic(distance, count, len(vectors), draws).tolist() == greedy(distance, count).tolist()


def test_a_sample_is_nearly_as_good() -> None:
    distance, draws = distances(points(8, 300, 3)), np.random.default_rng(1)
    auxiliary = 300 * float(distance.max())
    best = auxiliary - left_over(distance, greedy(distance, 10))
    for _ in range(10):
        picked = stochastic(distance, 10, 60, draws)
        assert len(set(picked.tolist())) == 10
        assert auxiliary - left_over(distance, picked) > 0.95 * best


@settings(deadline=None)
@given(clouds, st.integers(1, 8), st.integers(0, 99))
def test_small_samples_pick_distinct_ones(vectors: Any, sample: int, seed: int) -> None:
    picked = stochastic(distances(vectors), len(vectors), sample, np.random.default_rng(seed))
    assert sorted(picked.tolist()) == list(range(len(vectors)))
