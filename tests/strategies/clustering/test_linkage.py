"""Groups that are far apart: single linkage against brute force, complete linkage against the textbook."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import SettingError
from strategies.clustering.linkage import Matrix, bipartition
from tests.strategies.clustering.comparing import updates_of


def symmetric(draws: np.random.Generator, count: int) -> Matrix:
    half = np.triu(draws.uniform(-1, 1, (count, count)), 1)
    return half + half.T + np.eye(count)


def best_cross(matrix: Matrix) -> float:
    """The smallest α_cross^max of all bipartitions, by trying them."""
    count = len(matrix)
    found = []
    for size in range(1, count // 2 + 1):
        for chosen in combinations(range(count), size):
            first = np.isin(np.arange(count), chosen)
            found.append(matrix[np.ix_(first, ~first)].max())
    return float(min(found))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 10), st.integers(0, 10**6))
def test_single_linkage_is_brute_force(count: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    matrix = symmetric(draws, count)
    ids = [int(i) for i in draws.permutation(5000)[:count]]
    cut = bipartition(ids, matrix)
    first = np.isin(ids, cut.groups[0])
    assert cut.cross == best_cross(matrix) == matrix[np.ix_(first, ~first)].max()
    pairs = [(i, j) for i, j in combinations(range(count), 2) if first[i] == first[j]]
    assert cut.intra == (min(matrix[pair] for pair in pairs) if pairs else 1.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 10), st.integers(0, 10**6), st.sampled_from(["single", "complete"]))
def test_the_groups_are_of_ids_and_do_not_depend_on_their_order(count: int, seed: int, linkage: str) -> None:
    draws = np.random.default_rng(seed)
    matrix, ids = symmetric(draws, count), [f"phone {i}" for i in draws.permutation(999)[:count]]
    cut = bipartition(ids, matrix, linkage)
    assert ids[0] in cut.groups[0]
    assert sorted([*cut.groups[0], *cut.groups[1]]) == sorted(ids)
    assert min(map(len, cut.groups)) >= 1
    order = draws.permutation(count)
    again = bipartition([ids[i] for i in order], matrix[np.ix_(order, order)], linkage)
    assert set(map(frozenset, cut.groups)) == set(map(frozenset, again.groups))


def test_complete_linkage_is_the_textbook_rule_and_not_the_optimum() -> None:
    missed = 0
    for seed in range(60):
        matrix = symmetric(np.random.default_rng(seed), 7)
        groups: list[list[int]] = [[i] for i in range(7)]
        while len(groups) > 2:
            closest = max(combinations(groups, 2), key=lambda pair: min(matrix[i, j] for i in pair[0] for j in pair[1]))
            groups = [group for group in groups if group not in closest] + [closest[0] + closest[1]]
        cut = bipartition(list(range(7)), matrix, "complete")
        assert set(map(frozenset, cut.groups)) == set(map(frozenset, groups))
        missed += cut.cross > best_cross(matrix)
    assert missed > 30  # why single linkage is the default


@pytest.mark.parametrize("linkage", ["single", "complete"])
def test_planted_groups_are_found_among_more_than_a_thousand(linkage: str) -> None:
    draws = np.random.default_rng(3)
    ids = [int(i) for i in draws.permutation(10**6)[:1200]]
    group = draws.integers(0, 2, 1200)
    centres = np.stack([np.ones(40), -np.ones(40)])
    values = centres[group] + draws.normal(0, 0.5, (1200, 40))
    cut = bipartition(ids, updates_of(values, list(ids)).cosines(), linkage)
    expected = frozenset(i for i, g in zip(ids, group, strict=True) if g == group[0])
    assert frozenset(cut.groups[0]) == expected
    assert cut.cross < 0 < cut.intra


@pytest.mark.parametrize("matrix", [np.eye(1), np.eye(3), np.full((2, 2), np.nan), np.ones((2, 3))])
def test_matrices_that_are_none(matrix: Matrix) -> None:
    members = [1] if len(matrix) == 1 else [1, 2]
    with pytest.raises(ValueError, match="finite similarities"):
        bipartition(members, matrix)
    with pytest.raises(SettingError, match="cfl-linkage = 'average': allowed is one of single, complete"):
        bipartition([1, 2], np.eye(2), "average")
