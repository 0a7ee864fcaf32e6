"""What every selector has to do, and the ones that only look at sizes."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product
from math import prod, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import SettingError
from models.randomness import generator
from models.settings import read
from strategies.selection import (
    SELECTORS,
    BySize,
    BySizeWithReplacement,
    Candidates,
    DivFL,
    Oort,
    Probe,
    Selection,
    Selector,
    Uniform,
    Utility,
    selector,
)
from strategies.selection.base import Floats, Positions
from strategies.selection.draws import in_proportion, largest

IDS = [5 + 11 * i for i in range(1500)]


class Told(Probe):
    """Answers from what the test knows, by position, and counts the questions."""

    def __init__(self, losses: Any = None, gradients: Any = None) -> None:
        self._losses, self._gradients = losses, gradients
        self.asked: list[tuple[str, list[int], int, bool]] = []

    def losses(self, positions: Positions, *, batch: int = 0, common: bool = False) -> Floats:
        assert self._losses is not None, "nobody should be asked"
        self.asked.append(("losses", positions.tolist(), batch, common))
        return np.asarray(self._losses, dtype=float)[positions]

    def gradients(self, positions: Positions) -> np.ndarray[Any, Any]:
        assert self._gradients is not None, "nobody should be asked"
        self.asked.append(("gradients", positions.tolist(), 0, False))
        return np.asarray(self._gradients, dtype=np.float32)[positions]


def draws_of(round_number: int) -> np.random.Generator:
    return generator(1, round_number, "server", "select")


def choose(chosen: Selector, candidates: Candidates, count: int, round_number: int = 1, probe: Any = None) -> Selection:
    return chosen.select(candidates, count, draws_of(round_number), probe or Told())


def everything_known(nodes: Any) -> tuple[Candidates, Told]:
    """Candidates of whom all is known, in random numbers, and a probe that knows the rest."""
    draws, count = np.random.default_rng(0), len(nodes)
    columns: dict[str, Any] = {
        "examples": draws.integers(1, 50, count),
        "tiers": draws.integers(0, 3, count),
        "loss": draws.random(count),
        "loss_square": draws.random(count),
        "last_round": draws.integers(1, 5, count),
        "selected": 1,
        "seconds": draws.random(count),
        "steps": draws.integers(1, 9, count),
        "vectors": draws.normal(size=(count, 8)),
        "round_number": 5,
        "batch_size": 4,
    }
    return Candidates.of(nodes, **columns), Told(draws.random(count), draws.normal(size=(count, 8)))


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("count", [1, 40, 400])
def test_distinct_known_ids(name: str, count: int) -> None:
    nodes = IDS[:400]
    for candidates, probe in (everything_known(nodes), (Candidates.of(nodes, vectors=np.full((400, 8), np.nan)), None)):
        known = probe or Told(np.ones(400), np.ones((400, 8)))
        found = choose(selector(name), candidates, count, probe=known)
        assert len(found.nodes) == len(set(found.nodes))
        assert set(found.nodes) <= set(nodes)
        assert len(found.nodes) == count or name == "by-size-replacement"
        assert found.weights is None or (len(found.weights) == len(found.nodes) and min(found.weights) >= 1)


@pytest.mark.parametrize("name", SELECTORS)
def test_only_the_key_of_the_draw_matters(name: str) -> None:
    def found(round_number: int) -> Selection:
        candidates, probe = everything_known(IDS[:400])
        return choose(selector(name), candidates, 20, round_number, probe)

    assert found(4) == found(4)
    assert (found(4) == found(5)) == (name == "divfl")  # the same vectors: nothing is drawn


@pytest.mark.parametrize("name", SELECTORS)
def test_ids_are_only_names(name: str) -> None:
    """Numbers, names or other numbers: the same positions are chosen."""
    other = [f"device-{i}" for i in range(400)]
    (by_number, probe), (by_name, same) = everything_known(IDS[:400]), everything_known(other)
    chosen, named = choose(selector(name), by_number, 30, probe=probe), choose(selector(name), by_name, 30, probe=same)
    assert [IDS.index(int(node)) for node in chosen.nodes] == [other.index(str(node)) for node in named.nodes]
    assert chosen.weights == named.weights


def test_an_unknown_name() -> None:
    with pytest.raises(SettingError, match="selection = 'best': allowed is one of uniform, by-size"):
        selector("best")


WRONG: list[tuple[str, Any]] = [
    ("selection_compare", "tier"),
    ("selection_candidates", -1),
    ("selection_batch", 0),
    ("selection_loss", "past"),
    ("selection_data_exponent", -1.0),
    ("selection_loss_exponent", -0.5),
    ("selection_lateness_exponent", -2.0),
    ("selection_preferred_seconds", -1.0),
    ("divfl_greedy", "exact"),
    ("divfl_vectors", "first-layer"),
    ("divfl_size", 0),
    ("divfl_refresh", "never"),
    ("divfl_weights", "alpha"),
    ("divfl_sample", -1),
    ("oort_exploration", 1.1),
    ("oort_exploration", -0.1),
    ("oort_exploration_decay", 1.5),
    ("oort_exploration_least", 0.95),
    ("oort_cutoff", 1.2),
    ("oort_clip", -0.1),
    ("oort_pacer_percent", 101.0),
    ("oort_pacer_rounds", 0),
    ("oort_pacer_step", -5.0),
    ("oort_exploration", float("nan")),
]


def read_all(values: dict[str, Any]) -> None:
    for section in (Utility, DivFL, Oort):
        read(section, values)


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_settings_that_cannot_be_whoever_is_chosen(key: str, value: Any) -> None:
    with pytest.raises(SettingError) as caught:
        read_all({key.replace("_", "-"): value})
    assert (caught.value.key, "\n" in str(caught.value)) == (key.replace("_", "-"), False)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *product(["oort", "rpow-d"], ["selection_compare"], ["common"]),
        *product(["pow-d", "cpow-d"], ["selection_loss"], ["last"]),
        ("rpow-d", "selection_loss", "batch"),
    ],
)
def test_settings_that_a_selector_cannot_follow(name: str, key: str, value: Any) -> None:
    options = {key.replace("_", "-"): value}
    with pytest.raises(SettingError) as caught:
        selector(name, options)
    assert (caught.value.key, "\n" in str(caught.value)) == (key.replace("_", "-"), False)
    selector("uniform", options)


def test_what_a_selector_is_anyway_may_be_said() -> None:
    for name, loss in (("pow-d", "probe"), ("cpow-d", "batch"), ("rpow-d", "last")):
        assert selector(name, {"selection-loss": loss}) == selector(name)


# ---- the two ways to pick --------------------------------------------------------------------------------------------


def exact_sets(sizes: list[int], count: int) -> dict[frozenset[int], float]:
    """Probabilities of sets of positions, drawn one after the other in proportion to what is left."""
    found: dict[frozenset[int], float] = {}
    for order in permutations(range(len(sizes)), count):
        left, p = float(sum(sizes)), 1.0
        for i in order:
            p *= sizes[i] / left
            left -= sizes[i]
        found[frozenset(order)] = found.get(frozenset(order), 0.0) + p
    return found


def chi_square(found: Counter[Any], exact: dict[Any, float], rounds: int) -> None:
    assert set(found) <= set(exact)
    chi = sum((found[key] - rounds * p) ** 2 / (rounds * p) for key, p in exact.items())
    freedom = len(exact) - 1
    assert abs(chi - freedom) < 5 * sqrt(2 * freedom) + 5


def test_the_race_draws_one_after_the_other() -> None:
    sizes, rounds = [1, 2, 3, 10, 4], 8_000
    found: Counter[frozenset[int]] = Counter()
    draws = draws_of(1)
    weights = np.array(sizes, dtype=float)
    for _ in range(rounds):
        found[frozenset(in_proportion(weights, 2, draws).tolist())] += 1
    chi_square(found, exact_sets(sizes, 2), rounds)


def test_the_race_leaves_weight_zero_for_the_end() -> None:
    weights = np.array([0.0, 3.0, 0.0, 1.0, 0.0])
    ends = set()
    for number in range(40):
        order = in_proportion(weights, 5, draws_of(number)).tolist()
        assert set(order[:2]) == {1, 3}
        ends.add(tuple(order[2:]))
    assert len(ends) == 6


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(1, 40), st.integers(0, 9))
def test_the_largest_are_the_largest(scores: list[int], count: int, number: int) -> None:
    count = min(count, len(scores))
    picked = largest(np.array(scores, dtype=float), count, draws_of(number)).tolist()
    assert len(set(picked)) == count
    assert [scores[i] for i in picked] == sorted(scores, reverse=True)[:count]


def test_ties_are_broken_at_random() -> None:
    found = Counter(int(largest(np.array([1.0, 2.0, 2.0, 2.0]), 1, draws_of(number))[0]) for number in range(900))
    assert set(found) == {1, 2, 3}
    assert min(found.values()) > 240


# ---- uniform and by size ---------------------------------------------------------------------------------------------


def test_uniform_frequencies() -> None:
    """χ² over 1,500 ids that are not 0, 1, 2, ...: 400 rounds of 150, so 40 times each on average."""
    candidates = Candidates.of(IDS, examples=np.arange(1, 1501))
    found = Counter(node for number in range(400) for node in choose(Uniform(), candidates, 150, number).nodes)
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
    candidates = Candidates.of(list(sizes), examples=list(sizes.values()))
    total, rounds = sum(sizes.values()), 3000
    found = Counter(frozenset(choose(BySize(), candidates, 2, number).nodes) for number in range(rounds))
    for pair in {frozenset(pair) for pair in permutations(sizes, 2)}:
        p = sum(prod((sizes[i] / total, sizes[j] / (total - sizes[i]))) for i, j in permutations(pair, 2))
        assert abs(found[pair] - rounds * p) < 4.5 * sqrt(rounds * p * (1 - p))


def test_by_size_prefers_the_large_among_many() -> None:
    candidates = Candidates.of(IDS, examples=[100 if i % 2 else 1 for i in range(1500)])
    chosen = [node for number in range(30) for node in choose(BySize(), candidates, 15, number).nodes]
    assert sum(IDS.index(int(node)) % 2 for node in chosen) / len(chosen) > 0.96


def test_with_replacement_counts_draws() -> None:
    """Every draw is independent with p_k, and a node's weight is how often it was drawn."""
    sizes, rounds, count = {101: 1, 7: 2, 55: 3, 1001: 10}, 3000, 3
    candidates = Candidates.of(list(sizes), examples=list(sizes.values()))
    found: Counter[frozenset[tuple[Any, float]]] = Counter()
    for number in range(rounds):
        chosen = choose(BySizeWithReplacement(), candidates, count, number)
        assert chosen.weights is not None
        assert sum(chosen.weights) == count
        found[frozenset(zip(chosen.nodes, chosen.weights, strict=True))] += 1
    exact: dict[Any, float] = {}
    for order in product(sizes, repeat=count):
        key = frozenset(Counter(order).items())
        exact[key] = exact.get(key, 0.0) + prod(sizes[node] / 16 for node in order)
    chi_square(found, exact, rounds)


def test_sizes_of_any_kind() -> None:
    assert choose(BySize(), Candidates.of(["x", 3], examples=[10**9, 1]), 2).nodes
    everybody = choose(BySizeWithReplacement(), Candidates.of([7], examples=[3]), 1)
    assert everybody == Selection((7,), (1.0,))


def test_the_order_of_a_round_is_drawn_too() -> None:
    """Whoever is folded first should not always be the one with the smallest id."""
    candidates = Candidates.of(IDS[:10])
    firsts = {choose(Uniform(), candidates, 10, number).nodes[0] for number in range(60)}
    assert len(firsts) > 6


# ---- candidates ------------------------------------------------------------------------------------------------------


def test_what_a_node_gets_through() -> None:
    candidates = Candidates.of([1, 2, 3, 4], examples=[100, 100, 7, 50], steps=[3, 20, 9, np.nan], batch_size=10)
    assert candidates.processed.tolist() == [30, 100, 7, 50]


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(TypeError, match="weight"):
        Candidates.of([1], weight=3)
