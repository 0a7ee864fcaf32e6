"""Oort against a plain transcription of its rules, device by device, and its invariants."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.randomness import generator
from strategies.selection import Candidates, Oort, Selection
from tests.strategies.selection.test_rules import Told

NODES = [3 + 7 * i for i in range(1200)]


def choose(rule: Oort, candidates: Candidates, count: int, number: int = 1) -> Selection:
    return rule.select(candidates, count, generator(1, number, "server", "select"), Told())


def trained(seed: int, count: int, round_number: int, **other: Any) -> Candidates:
    """Candidates that have all trained before this round."""
    draws = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "examples": draws.integers(1, 300, count),
        "steps": draws.integers(1, 20, count),
        "batch_size": 10,
        "loss_square": draws.random(count) * 4,
        "last_round": draws.integers(1, round_number, count),
        "seconds": draws.random(count) * 9 + 0.1,
        "selected": 1,
    }
    return Candidates.of([3 + 7 * i for i in range(count)], round_number=round_number, **(columns | other))


def written_out(candidates: Candidates, limit: float, alpha: float, clip: float) -> list[float]:
    """The score of every device, one after the other, as the authors' code computes it when everybody has trained."""
    rewards = []
    for i in range(len(candidates)):
        size = min(candidates.examples[i], candidates.steps[i] * candidates.batch_size)
        rewards.append(size * math.sqrt(candidates.loss_square[i]))
    ascending = sorted(rewards)
    bound = ascending[min(int(len(ascending) * clip), len(ascending) - 1)]
    least = min(ascending) * 0.999
    scale = max(max(ascending) - least, 1e-4)
    scores = []
    for i, reward in enumerate(rewards):
        score = (min(reward, bound) - least) / scale
        score += math.sqrt(0.1 * math.log(candidates.round_number) / candidates.last_round[i])
        if candidates.seconds[i] > limit:
            score *= (limit / max(1e-4, candidates.seconds[i])) ** alpha
        scores.append(score)
    return scores


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 90), st.floats(0.2, 12), st.sampled_from([0, 1, 2]))
def test_scores_are_the_authors(seed: int, count: int, number: int, limit: float, alpha: float) -> None:
    from strategies.selection.utility import lateness

    rule, candidates = Oort(lateness=alpha, clip=0.8), trained(seed, count, number)
    speed = lateness(candidates.seconds, limit, alpha)
    found = rule.scores(candidates, rule.utilities(candidates), speed, np.arange(count))
    np.testing.assert_allclose(found, written_out(candidates, limit, alpha, 0.8), rtol=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 50), min_size=1, max_size=90), st.integers(1, 6), st.floats(0, 20))
def test_the_pacer_is_the_authors(gains: list[float], rounds: int, step: float) -> None:
    """A device that is always exploited gains this much; the percentile moves as in the authors' loop."""
    rule, percent, history = Oort(pacer_rounds=rounds, pacer_step=step, percent=50.0), 50.0, []
    notes: dict[str, Any] = {"exploited": [3]}
    for number, gained in enumerate(gains, 2):
        candidates = Candidates.of(
            [3, 10],
            round_number=number,
            examples=1,
            loss_square=[gained**2, 5],
            last_round=[number - 1, number - 1],
            selected=1,
            seconds=[1.0, 2.0],
            notes=notes,
        )
        limit = rule._paced(candidates, rule.utilities(candidates))
        history.append(math.sqrt(gained**2) / (1 + 1e-4))
        if number >= 2 * rounds and number % rounds == 0:
            before, now = sum(history[-2 * rounds : -rounds]), sum(history[-rounds:])
            if abs(now - before) <= 0.1 * before:
                percent = min(100.0, percent + step)
            elif abs(now - before) >= 5 * before:
                percent = max(step, percent - step)
        assert notes["percent"] == percent
        assert limit == (np.inf if percent >= 100 else [1.0, 2.0][min(int(2 * percent / 100), 1)])
        assert len(notes["gained"]) <= 2 * rounds


def test_epsilon() -> None:
    rule = Oort()
    assert rule.epsilon(1) == pytest.approx(0.9 * 0.95)
    assert rule.epsilon(10) == pytest.approx(0.9 * 0.95**10)
    assert rule.epsilon(200) == 0.2


def test_utility_is_the_root_of_size_times_sum_of_squares() -> None:
    """U = |B| · sqrt(mean loss²) = sqrt(|B| · Σ loss²), and the order is that of U when nothing else counts."""
    losses = np.random.default_rng(1).random((1200, 25))
    candidates = Candidates.of(
        NODES, examples=25, loss_square=(losses**2).mean(axis=1), last_round=1, selected=1, round_number=9
    )
    rule = Oort(lateness=0.0, exploration=0.0, least=0.0, cutoff=1.0, clip=1.0, percent=100.0)
    found = rule.utilities(candidates)
    np.testing.assert_allclose(found, np.sqrt(25 * (losses**2).sum(axis=1)))
    edge = set(choose(rule, candidates, 100).nodes)  # of those that reach the score at the edge: one too many
    assert edge <= {NODES[i] for i in np.argsort(found)[-101:]}
    assert len(edge) == 100


def test_twice_the_data_is_twice_the_utility_until_it_cannot_be_got_through() -> None:
    rule = Oort()
    candidates = Candidates.of(range(4), examples=[20, 40, 80, 160], steps=8, batch_size=10, loss_square=2.5)
    first, second, third, fourth = rule.utilities(candidates)
    assert (second, third, fourth) == (2 * first, 4 * first, third)


def test_at_first_everybody_is_new() -> None:
    """Nobody to exploit: the largest 5 times as many are drawn from, in proportion to size."""
    sizes = np.random.default_rng(2).permutation(1200) + 1
    candidates = Candidates.of(NODES, examples=sizes)
    largest = {NODES[i] for i in np.argsort(sizes)[-100:]}
    seen: Counter[Any] = Counter()
    for number in range(60):
        chosen = choose(Oort(), candidates, 20, number).nodes
        assert set(chosen) <= largest
        seen.update(chosen)
    assert len(seen) > 95


@pytest.mark.parametrize(("number", "explored"), [(1, 18), (5, 14), (80, 4)])
def test_the_share_that_explores(number: int, explored: int) -> None:
    """20 places, ε of them for those that never trained: 0.855, 0.696 and 0.2."""
    new = np.arange(1200) % 2 == 0
    candidates = Candidates.of(
        NODES,
        round_number=number,
        examples=9,
        loss_square=np.where(new, np.nan, 2.0),
        selected=~new,
        last_round=np.where(new, 0, 1),
    )
    chosen = choose(Oort(), candidates, 20, number).nodes
    assert sum(new[NODES.index(int(node))] for node in chosen) == explored


def test_nobody_left_to_explore_or_to_exploit_is_no_error() -> None:
    everybody = trained(3, 60, 4)
    assert len(set(choose(Oort(), everybody, 60).nodes)) == 60
    assert len(set(choose(Oort(), everybody, 7).nodes)) == 7
    assert len(set(choose(Oort(), Candidates.of(range(5)), 5).nodes)) == 5
    # Chosen before and never heard of: neither new nor known, but there to fill up.
    silent = Candidates.of(range(5), selected=3, round_number=4)
    assert len(set(choose(Oort(), silent, 3).nodes)) == 3


def test_an_untried_device_is_not_taken_to_be_late() -> None:
    candidates = trained(4, 30, 9, seconds=np.nan)
    rule = Oort()
    assert rule._paced(candidates, rule.utilities(candidates)) == np.inf


def test_late_devices_lose() -> None:
    alike = {"examples": 9, "loss_square": 2.0, "last_round": 1, "selected": 1, "round_number": 3}
    candidates = Candidates.of(NODES, seconds=np.where(np.arange(1200) % 3 == 0, 1.0, 40.0), **alike)  # type: ignore[arg-type]
    chosen = choose(Oort(preferred_seconds=2.0), candidates, 100).nodes
    assert all(NODES.index(int(node)) % 3 == 0 for node in chosen)
    relaxed = choose(Oort(preferred_seconds=2.0, lateness=0.0), candidates, 100).nodes
    assert sum(NODES.index(int(node)) % 3 == 0 for node in relaxed) < 60


def test_the_longer_nobody_asked_the_higher_the_score() -> None:
    rule, count = Oort(lateness=0.0), 10
    candidates = Candidates.of(
        range(count), examples=9, loss_square=2.0, last_round=np.arange(count) + 1, round_number=20, selected=1
    )
    scores = rule.scores(candidates, rule.utilities(candidates), np.ones(count), np.arange(count))
    assert all(earlier > later for earlier, later in pairwise(scores.tolist()))


def test_one_outlier_does_not_rule() -> None:
    """Cut at the percentile: the outlier's score is that of the best of the others."""
    losses = np.linspace(1, 2, 100)
    losses[17] = 500
    candidates = Candidates.of(range(100), loss_square=losses**2, last_round=1, round_number=1, selected=1)
    rule = Oort(clip=0.95)
    scores = rule.scores(candidates, rule.utilities(candidates), np.ones(100), np.arange(100))
    assert scores[17] == scores.max() == np.sort(scores)[-5]


def test_notes_are_json_of_this_rule_alone() -> None:
    import json

    candidates = trained(5, 40, 3)
    choose(Oort(), candidates, 5)
    assert json.loads(json.dumps(candidates.notes)) == candidates.notes
    assert set(candidates.notes) == {"percent", "gained", "exploited"}
    assert candidates.notes["exploited"]
