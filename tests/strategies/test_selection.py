from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import prod, sqrt
from typing import Any

import numpy as np
import pytest

from models.randomness import generator
from strategies.selection import SELECTORS, BySize, Candidate, Selector, Uniform

IDS = [5 + 11 * i for i in range(1500)]


def no_probe(nodes: Any) -> Any:
    raise AssertionError("nobody should be asked")


def choose(selector: Selector, candidates: list[Candidate], count: int, round_number: int) -> list[Any]:
    return selector.select(candidates, count, generator(1, round_number, "server", "select"), no_probe)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("count", [1, 40, 1500])
def test_distinct_known_ids(name: str, count: int) -> None:
    candidates = [Candidate(node, "a", 1 + node % 50) for node in IDS]
    chosen = choose(SELECTORS[name](), candidates, count, 1)
    assert len(chosen) == len(set(chosen)) == count
    assert set(chosen) <= set(IDS)


def test_uniform_frequencies() -> None:
    """χ² over 1,500 ids that are not 0, 1, 2, ...: 400 rounds of 150, so 40 times each on average."""
    candidates = [Candidate(node, "a", 1 + i) for i, node in enumerate(IDS)]
    found = Counter(node for number in range(400) for node in choose(Uniform(), candidates, 150, number))
    assert set(found) <= set(IDS)
    expected, variance = 40.0, 400 * 0.1 * 0.9
    chi = sum((found[node] - expected) ** 2 / variance for node in IDS) * (1499 / 1500)
    assert abs(chi - 1499) < 5 * sqrt(2 * 1499)
    # By position too: no end of the list is preferred.
    tenths = [sum(found[node] for node in IDS[i : i + 150]) for i in range(0, 1500, 150)]
    assert max(abs(tenth - 6000) for tenth in tenths) < 5 * sqrt(6000 * 0.9)


def test_by_size_follows_the_exact_probabilities() -> None:
    """One after the other without replacement: p(i, j) = s_i/S · s_j/(S - s_i)."""
    sizes = {101: 1, 7: 2, 55: 3, 1001: 10}
    candidates = [Candidate(node, "a", size) for node, size in sizes.items()]
    total, rounds = sum(sizes.values()), 6000
    found = Counter(frozenset(choose(BySize(), candidates, 2, number)) for number in range(rounds))
    for pair in {frozenset(pair) for pair in permutations(sizes, 2)}:
        p = sum(prod((sizes[i] / total, sizes[j] / (total - sizes[i]))) for i, j in permutations(pair, 2))
        assert abs(found[pair] - rounds * p) < 4.5 * sqrt(rounds * p * (1 - p))


def test_by_size_prefers_the_large_among_many() -> None:
    candidates = [Candidate(node, "a", 100 if i % 2 else 1) for i, node in enumerate(IDS)]
    large = {candidate.node for candidate in candidates if candidate.examples == 100}
    chosen = [node for number in range(30) for node in choose(BySize(), candidates, 15, number)]
    assert sum(node in large for node in chosen) / len(chosen) > 0.96


@pytest.mark.parametrize("name", SELECTORS)
def test_only_the_key_of_the_draw_matters(name: str) -> None:
    candidates = [Candidate(node, "a", 3) for node in IDS]
    assert choose(SELECTORS[name](), candidates, 20, 4) == choose(SELECTORS[name](), candidates, 20, 4)
    assert choose(SELECTORS[name](), candidates, 20, 4) != choose(SELECTORS[name](), candidates, 20, 5)
    learnt = [Candidate(node, "b", 3, last_loss=float(node), last_round=3, last_seconds=1.0) for node in IDS]
    assert choose(SELECTORS[name](), candidates, 20, 4) == choose(SELECTORS[name](), learnt, 20, 4)


def test_the_order_of_a_round_is_drawn_too() -> None:
    """Whoever is folded first should not always be the one with the smallest id."""
    candidates = [Candidate(node, "a", 1) for node in IDS[:10]]
    firsts = {choose(Uniform(), candidates, 10, number)[0] for number in range(60)}
    assert len(firsts) > 6


def test_sizes_of_any_type() -> None:
    assert choose(BySize(), [Candidate("x", "a", 10**9), Candidate(np.int64(3), "a", 1)], 2, 1)  # type: ignore[arg-type]
