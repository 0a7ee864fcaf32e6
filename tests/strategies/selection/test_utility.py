"""Power-of-Choice and the utility rule: the invariants P1 to P9 of the reference, and what a tier does to a loss."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import SettingError
from strategies.selection import Candidates, Selector, Utility, selector
from strategies.selection.comparable import within_tiers
from strategies.selection.utility import last_losses, lateness
from tests.strategies.selection.test_rules import Told, chi_square, choose, draws_of, exact_sets

COUNT = 1500
SHUFFLED = (np.random.default_rng(7).permutation(5 * COUNT)[:COUNT] * 11 + 5).tolist()  # ids in no order, with gaps


def losses_of(seed: int) -> Any:
    """Every value once, in random order."""
    return np.random.default_rng(seed).permutation(COUNT) / 100 + 0.01


def power_of_choice(name: str, d: int, **options: Any) -> Selector:
    return selector(
        name, {"selection-candidates": d, **{key.replace("_", "-"): value for key, value in options.items()}}
    )


# ---- Power-of-Choice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", ["tier-rank", "common", "raw"])
def test_p1_everybody_probed_is_the_exact_top(compare: str) -> None:
    losses, rule = losses_of(1), power_of_choice("pow-d", COUNT, selection_compare=compare)
    best = {SHUFFLED[i] for i in np.argsort(losses)[-100:]}
    chosen = choose(rule, Candidates.of(SHUFFLED, examples=np.arange(1, COUNT + 1)), 100, probe=Told(losses))
    assert set(chosen.nodes) == best
    assert chosen.weights is None


def test_p1_from_the_table() -> None:
    losses = losses_of(2)
    candidates = Candidates.of(SHUFFLED, loss=losses, last_round=3, selected=1)
    chosen = choose(power_of_choice("rpow-d", COUNT), candidates, 100)
    assert set(chosen.nodes) == {SHUFFLED[i] for i in np.argsort(losses)[-100:]}


def test_p2_as_many_as_are_chosen_is_sampling_by_size_without_replacement() -> None:
    sizes, rounds = [1, 2, 3, 10, 4], 6_000
    candidates, rule = Candidates.of(range(5), examples=sizes), power_of_choice("pow-d", 2)
    draws = draws_of(1)
    found = Counter(
        frozenset(int(node) for node in rule.select(candidates, 2, draws, Told()).nodes) for _ in range(rounds)
    )
    chi_square(found, exact_sets(sizes, 2), rounds)  # nobody was asked: this probe would have raised


def test_p2_the_candidates_are_drawn_by_size_without_replacement() -> None:
    sizes, rounds = [1, 2, 3, 10, 4], 6_000
    found: Counter[frozenset[int]] = Counter()
    candidates, rule, draws = Candidates.of(range(5), examples=sizes), power_of_choice("pow-d", 3), draws_of(1)
    for _ in range(rounds):
        probe = Told(np.ones(5))
        rule.select(candidates, 1, draws, probe)
        found[frozenset(probe.asked[0][1])] += 1
    chi_square(found, exact_sets(sizes, 3), rounds)


def test_p3_p4_p5_chosen_among_the_candidates_by_loss() -> None:
    losses = losses_of(3)
    candidates = Candidates.of(SHUFFLED, examples=np.arange(1, COUNT + 1))
    assert set(choose(power_of_choice("pow-d", 0), candidates, COUNT).nodes) == set(SHUFFLED)
    for d in (41, 400):
        probe = Told(losses)
        chosen = choose(power_of_choice("pow-d", d), candidates, 40, probe=probe)
        ((kind, asked, batch, common),) = probe.asked
        assert (kind, len(asked), len(set(asked)), batch, common) == ("losses", d, d, 0, False)
        positions = {SHUFFLED.index(node) for node in chosen.nodes}
        assert len(positions) == 40
        assert positions <= set(asked)
        assert min(losses[i] for i in positions) >= max(losses[i] for i in set(asked) - positions)


def test_positions_among_the_candidates_are_other_clients_than_those_of_the_largest_loss() -> None:
    """FLGo takes positions among the candidates for positions among all."""
    losses = losses_of(5)
    probe = Told(losses)
    chosen = choose(power_of_choice("pow-d", 40), Candidates.of(range(COUNT)), 5, probe=probe)
    asked = np.array(probe.asked[0][1])
    largest = np.argsort(losses[asked])[-5:]
    assert set(chosen.nodes) == set(asked[largest].tolist())
    assert set(chosen.nodes) != set(largest.tolist())


def test_unless_given_twice_as_many_are_asked_as_are_chosen() -> None:
    probe = Told(np.ones(COUNT))
    choose(power_of_choice("pow-d", 0), Candidates.of(SHUFFLED), 30, probe=probe)
    assert len(probe.asked[0][1]) == 60


@pytest.mark.parametrize(("chosen", "rounds"), [(100, 15), (400, 4)])
def test_p6_the_table_visits_everybody_before_anybody_twice(chosen: int, rounds: int) -> None:
    loss, selected = np.full(COUNT, np.nan), np.zeros(COUNT)
    visits: Counter[Any] = Counter()
    for number in range(1, rounds + 1):
        candidates = Candidates.of(SHUFFLED, loss=loss, selected=selected)
        for node in choose(power_of_choice("rpow-d", COUNT), candidates, chosen, number).nodes:
            visits[node] += 1
            loss[SHUFFLED.index(node)], selected[SHUFFLED.index(node)] = 1.0 + number / 7, 1
    assert set(visits) == set(SHUFFLED)
    if COUNT % chosen == 0:
        assert set(visits.values()) == {1}


def test_who_never_answers_is_neither_first_for_ever_nor_last() -> None:
    candidates = Candidates.of([1, 2, 3, 4, 5], loss=[3.0, 1.0, 2.0, np.nan, np.nan], selected=[1, 1, 1, 4, 0])
    assert last_losses(candidates, candidates.loss).tolist() == [3, 1, 2, 2, np.inf]
    nobody = Candidates.of([1, 2], selected=[1, 0])
    assert last_losses(nobody, nobody.loss).tolist() == [np.inf, np.inf]


def test_p7_the_batch_is_asked_for() -> None:
    probe = Told(np.ones(COUNT))
    choose(power_of_choice("cpow-d", 50, selection_batch=17), Candidates.of(SHUFFLED), 10, probe=probe)
    assert probe.asked[0][2] == 17


@pytest.mark.parametrize("tiers", [1, 3])
@pytest.mark.parametrize(("factor", "shift"), [(1.0, 4.0), (8.0, 0.0), (0.25, 1.0)])
def test_p9_another_scale_of_losses_changes_nothing(tiers: int, factor: float, shift: float) -> None:
    candidates = Candidates.of(SHUFFLED, tiers=np.arange(COUNT) % tiers)
    losses = np.round(losses_of(4) * 16) / 16  # ties, and numbers that can be scaled without rounding
    rule = power_of_choice("pow-d", 300)
    before, after = (choose(rule, candidates, 40, probe=Told(values)) for values in (losses, factor * losses + shift))
    assert before == after


def test_who_does_not_answer_the_probe_is_chosen_last() -> None:
    losses = losses_of(5)
    losses[np.argsort(losses)[-30:]] = np.nan
    chosen = choose(power_of_choice("pow-d", COUNT), Candidates.of(SHUFFLED), 100, probe=Told(losses))
    assert set(chosen.nodes) == {SHUFFLED[i] for i in np.argsort(np.where(np.isnan(losses), -1, losses))[-100:]}
    silent = choose(power_of_choice("pow-d", COUNT), Candidates.of(SHUFFLED), COUNT - 5, probe=Told(losses))
    assert len(silent.nodes) == COUNT - 5


@pytest.mark.parametrize(("d", "fits"), [(0, True), (9, False), (10, True), (60, True), (61, False)])
def test_d_is_held_against_m_and_the_number_of_nodes(d: int, fits: bool) -> None:
    rule = power_of_choice("pow-d", d)
    if fits:
        rule.check(10, 60)
    else:
        with pytest.raises(SettingError, match=rf"selection-candidates = {d}: allowed is 10 .* to 60 "):
            rule.check(10, 60)


def test_fewer_nodes_than_candidates_are_all_asked() -> None:
    probe = Told([1.0, 3.0, 2.0])
    assert choose(power_of_choice("pow-d", 10), Candidates.of([7, 8, 9]), 1, probe=probe).nodes == (8,)


# ---- the utility rule ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    a=st.sampled_from([0.0, 0.5, 1.0]),
    b=st.sampled_from([0.0, 1.0, 2.0]),
    c=st.sampled_from([0.0, 1.0, 2.0]),
    limit=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 50),
)
def test_the_formula(a: float, b: float, c: float, limit: float, seed: int) -> None:
    """Against the formula, written out device by device."""
    draws = np.random.default_rng(seed)
    size, steps, losses = draws.integers(1, 90, 12), draws.integers(1, 9, 12), draws.random(12)
    seconds = np.where(draws.random(12) < 0.2, np.nan, draws.random(12))
    candidates = Candidates.of(range(12), examples=size, steps=steps, batch_size=10, seconds=seconds)
    rule = Utility(
        losses="probe", candidates=12, batch=64, compare="raw", data=a, loss=b, lateness=c, preferred_seconds=limit
    )
    found = rule.utilities(candidates, np.arange(12), losses)
    known = sorted(t for t in seconds.tolist() if t == t)
    middle = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2 if known else None
    preferred = limit or middle
    for i in range(12):
        expected = min(int(size[i]), int(steps[i]) * 10) ** a * float(losses[i]) ** b
        if preferred is not None and seconds[i] > preferred:
            expected *= (preferred / float(seconds[i])) ** c
        assert found[i] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("exponent", "factor"), [(0.0, 1.0), (0.5, 2**0.5), (1.0, 2.0)])
def test_twice_the_data_counts_until_the_device_cannot_get_through_it(exponent: float, factor: float) -> None:
    rule = Utility(data=exponent, lateness=0.0)
    sizes = np.array([20, 40, 80, 160])
    candidates = Candidates.of(range(4), examples=sizes, steps=8, batch_size=10)
    first, second, third, fourth = rule.utilities(candidates, np.arange(4), np.full(4, 1.7))
    assert second / first == pytest.approx(factor)
    assert third / second == pytest.approx(factor)
    assert fourth == third  # 8 steps of 10


def test_power_of_choice_is_a_case_of_it() -> None:
    losses = losses_of(6)
    candidates = Candidates.of(SHUFFLED, examples=np.arange(COUNT) % 70 + 1, seconds=losses[::-1])
    rule = Utility(losses="probe", candidates=300, data=0.0, loss=1.0, lateness=0.0)
    assert choose(rule, candidates, 40, probe=Told(losses)) == choose(
        power_of_choice("pow-d", 300), candidates, 40, probe=Told(losses)
    )


def test_without_the_loss_nobody_new_is_preferred() -> None:
    """b = 0: the loss does not matter, not even an infinite one."""
    rule = Utility(losses="last", candidates=6, loss=0.0, lateness=0.0)
    candidates = Candidates.of(range(6), examples=[5, 9, 1, 7, 3, 8], loss=[1, 2, np.nan, 3, np.nan, 4])
    assert choose(rule, candidates, 3).nodes == (1, 5, 3)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.floats(0, 3))
def test_lateness_only_takes(seconds: list[float], exponent: float) -> None:
    factors = lateness(np.array(seconds), 0.0, exponent)
    assert (factors <= 1).all()
    assert (factors > 0).all()
    assert (factors[np.array(seconds) <= np.median(seconds)] == 1).all()
    assert lateness(np.array([*seconds, np.nan]), 1.0, exponent)[-1] == 1


def test_tier_losses_are_of_the_tier_that_trained() -> None:
    """A node whose tier has changed since is still compared with those that trained what it trained."""
    candidates = Candidates.of(
        range(4), tiers=[0, 0, 0, 0], loss_tiers=[0, 0, 1, 1], loss=[1.0, 1.2, 5.0, 4.0], selected=1
    )
    assert set(choose(power_of_choice("rpow-d", 4), candidates, 2).nodes) == {1, 2}


# ---- losses of different tiers ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_within_one_tier_nothing_changes_bit_for_bit(values: list[int]) -> None:
    losses = np.array(values) / 7
    assert within_tiers(losses, np.zeros(len(values), dtype=np.intp)).tolist() == losses.tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=60), st.data())
def test_within_tiers(pairs: list[tuple[int, int]], data: Any) -> None:
    losses, tiers = np.array([loss / 7 for loss, _ in pairs]), np.array([tier for _, tier in pairs])
    found = within_tiers(losses, tiers)
    assert found.min() >= losses.min()
    assert found.max() <= losses.max()
    for tier in set(tiers.tolist()):  # nobody overtakes anybody of the own tier, and equals stay equal
        own, new = losses[tiers == tier], found[tiers == tier]
        before, after = np.sign(own[:, None] - own), np.sign(new[:, None] - new)
        assert ((after == before) | (after == 0)).all()
    order = np.array(data.draw(st.permutations(range(len(pairs)))))
    assert within_tiers(losses[order], tiers[order]).tolist() == found[order].tolist()


def test_unknown_losses_count_nowhere() -> None:
    losses = np.array([1.0, np.nan, 3.0, np.inf, 2.0])
    assert (
        within_tiers(losses, np.array([0, 0, 1, 1, 1])).tolist()[:4:2]
        == within_tiers(np.array([1.0, 3.0, 2.0]), np.array([0, 1, 1])).tolist()[:2]
    )
    again = within_tiers(losses, np.array([0, 0, 1, 1, 1]))
    assert np.isnan(again[1])
    assert again[3] == np.inf


def test_the_weakest_tier_is_not_chosen_for_being_weak() -> None:
    """Small submodels have losses that are higher by one nat; the data are alike."""
    draws, tiers = np.random.default_rng(3), np.arange(900) % 3
    losses = draws.random(900) + tiers
    candidates = Candidates.of(range(900), tiers=tiers)
    share = {}
    for compare in ("raw", "tier-rank"):
        rule = power_of_choice("pow-d", 900, selection_compare=compare)
        nodes = [int(node) for node in choose(rule, candidates, 90, probe=Told(losses)).nodes]
        share[compare] = sum(node % 3 == 2 for node in nodes) / 90
    assert share["raw"] == 1.0
    assert 0.28 < share["tier-rank"] < 0.39


def test_the_common_part_is_asked_for() -> None:
    probe = Told(np.ones(COUNT))
    rule = power_of_choice("pow-d", 50, selection_compare="common")
    choose(rule, Candidates.of(SHUFFLED), 10, probe=probe)
    assert probe.asked[0][3] is True
