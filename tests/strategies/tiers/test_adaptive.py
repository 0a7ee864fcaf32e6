"""Which tier a measured device gets, and when it gets another."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.profile import MEMORY_AVAILABLE, NEEDED, STEP
from strategies.exchange.messaging import WINDOW
from strategies.exchange.report import RoundReport
from strategies.exchange.update import AcceptedUpdate
from strategies.round.aggregator import RoundAggregator
from strategies.tiers.adaptive import (
    MOST_REQUIRED_ROUNDS,
    AdaptiveTiers,
    Demand,
    DeviceTier,
    Rule,
    first,
    missed,
    replied,
)

RULE = Rule(deadline=10.0, margin=0.8, patience=3)
# 10 steps of 2, 0.5 and 0.1 seconds; 100, 20 and 10 bytes; 1,000, 300 and 100 coordinates.
THREE = Demand(
    steps=[10.0] * 3, step=[2.0, 0.5, 0.1], needed=[100.0, 20.0, 10.0], coordinates=[1000.0, 300.0, 100.0], memory=50.0
)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    count = draw(st.integers(1, 6))
    numbers = st.floats(0.01, 100)

    def falling() -> list[float]:
        return sorted(draw(st.lists(numbers, min_size=count, max_size=count)), reverse=True)

    return Demand(
        steps=[draw(st.floats(1, 20))] * count,
        step=falling(),
        needed=falling(),
        coordinates=falling(),
        memory=draw(numbers),
    )


@given(demands(), st.floats(0.1, 1000))
def test_the_first_tier_is_the_largest_that_fits(demand: Demand, deadline: float) -> None:
    rule = Rule(deadline)
    current = first(demand, rule)
    able = [position for position in range(len(demand.steps)) if demand.needed[position] <= demand.memory]
    if not able:
        assert current is None
        return
    assert current is not None
    quick = [p for p in able if demand.steps[p] * demand.step[p] <= rule.margin * deadline]
    assert current.position == (min(quick) if quick else max(able))


def test_memory_and_deadline_each_decide() -> None:
    assert first(THREE, RULE) == DeviceTier(position=1, required_rounds=3)  # 100 bytes are too many
    assert first(THREE, Rule(6.0)) == DeviceTier(position=2, required_rounds=3)  # 5 s are more than 0.8 of 6
    assert first(THREE, Rule(0.1)) == DeviceTier(position=2, required_rounds=3)  # none meets it: the smallest
    wide = Demand(steps=THREE.steps, step=THREE.step, needed=THREE.needed, coordinates=THREE.coordinates, memory=100.0)
    assert first(wide, Rule(100.0)) == DeviceTier(position=0, required_rounds=3)
    assert first(Demand(steps=[1.0], step=[inf], needed=[5.0], coordinates=[1.0], memory=9.0), RULE) == DeviceTier(
        position=0, required_rounds=3
    )  # not timed, and nothing smaller


@given(demands(), st.integers(0, 5), st.integers(1, MOST_REQUIRED_ROUNDS))
def test_a_miss_moves_one_tier_down_at_once(demand: Demand, position: int, required_rounds: int) -> None:
    assume(position < len(demand.steps))
    after = missed(DeviceTier(position=position, fitting_rounds=2, required_rounds=required_rounds), demand)
    smaller = [p for p in range(position + 1, len(demand.steps)) if demand.fits(p)]
    assert after.position == (smaller[0] if smaller else position)
    assert after.fitting_rounds == 0
    assert after.required_rounds == min(2 * required_rounds, MOST_REQUIRED_ROUNDS)


@given(demands(), st.lists(st.floats(0.001, 300), max_size=30), st.integers(1, 5))
def test_up_only_after_patience_and_one_at_a_time(demand: Demand, seconds: list[float], patience: int) -> None:
    rule = Rule(10.0, 0.8, patience)
    current = first(demand, rule)
    assume(current is not None)
    streak = 0
    for one in seconds:
        assert current is not None
        before = current
        current = replied(
            before, demand, rule, position=before.position, seconds=one, computing=one, steps=demand.steps[0]
        )
        larger = before.position - 1
        roomy = (
            larger >= 0
            and demand.fits(larger)
            and demand.seconds(larger, current.slowdown, current.seconds_per_coordinate) <= 8.0
        )
        streak = streak + 1 if roomy else 0
        assert current.position == (larger if streak >= patience else before.position)
        streak = 0 if current.position != before.position else streak


def test_the_load_of_the_last_round_counts() -> None:
    """Twice as slow as measured: 10 steps of 0.5 s would take 10 s, more than 8; as measured, 5 s."""
    current = DeviceTier(position=2, required_rounds=1)
    slow = replied(current, THREE, RULE, position=2, seconds=2.0, computing=2.0, steps=10.0)
    assert (slow.position, slow.slowdown) == (2, 2.0)
    assert replied(slow, THREE, RULE, position=2, seconds=1.0, computing=1.0, steps=10.0).position == 1


def test_the_line_counts_in_proportion_to_what_is_moved() -> None:
    """2 s beside computing for 100 coordinates would be 6 s for 300: with 5 s of computing that is too much."""
    current = replied(
        DeviceTier(position=2, required_rounds=1), THREE, RULE, position=2, seconds=3.0, computing=1.0, steps=10.0
    )
    assert current.seconds_per_coordinate == pytest.approx(0.02)
    assert current.position == 2
    assert (
        replied(
            DeviceTier(position=2, required_rounds=1), THREE, RULE, position=2, seconds=1.9, computing=1.0, steps=10.0
        ).position
        == 1
    )


def test_what_passes_beside_the_device_counts_in_full() -> None:
    """5 s of computing in the larger tier; 3 s of transfer and of waiting just leave room in 8 s, 3.1 don't."""
    current = DeviceTier(position=2, required_rounds=1)

    def after(before: DeviceTier, transport_seconds: float | None) -> DeviceTier:
        return replied(
            before, THREE, RULE, position=2, seconds=1.0, computing=1.0, steps=10.0, transport_seconds=transport_seconds
        )

    assert after(current, 3.0).position == 1
    slow = after(current, 3.1)
    assert (slow.position, slow.transport_seconds) == (2, 3.1)
    assert after(slow, None).transport_seconds == 3.1  # not known this time
    assert after(slow, 0.5).position == 1


def test_a_line_known_beforehand_counts_from_the_beginning() -> None:
    assert first(THREE, RULE) == DeviceTier(position=1, required_rounds=3)
    assert first(replace(THREE, transfer_seconds=[9.0, 3.1, 1.0]), RULE) == DeviceTier(position=2, required_rounds=3)


def test_a_device_on_the_edge_does_not_swing() -> None:
    """It fits with ease in the smaller tier and misses in the larger one: that is tried ever more seldom."""
    current, positions = DeviceTier(position=1, required_rounds=3), []
    for _ in range(200):
        if current.position == 1:
            current = missed(current, THREE)
        else:
            current = replied(current, THREE, RULE, position=2, seconds=1.0, computing=1.0, steps=10.0)
        positions.append(current.position)
    assert positions[0] == 2
    assert positions.count(1) == 5  # after 6, 12, 24, 48 and 64 rounds


def figures(memory: float = 50.0) -> dict[str, float]:
    return {MEMORY_AVAILABLE: memory} | {
        kind + name: value
        for kind, values in ((STEP, THREE.step), (NEEDED, THREE.needed))
        for name, value in zip("abc", values, strict=True)
    }


def test_what_a_device_says_is_read_by_name() -> None:
    assert Demand.of(figures(), ["a", "b", "c"], THREE.steps, THREE.coordinates) == THREE


def test_a_device_without_a_tier_is_named() -> None:
    tiers = AdaptiveTiers("abc", RULE)
    with pytest.raises(ValueError, match=r"no tier fits 0 MB.*told no figures"):
        tiers.position(7, Demand.of({}, ["a", "b", "c"], THREE.steps, THREE.coordinates))
    with pytest.raises(ValueError, match="the smallest needs 0 MB"):
        tiers.position(7, Demand.of(figures(5.0), ["a", "b", "c"], THREE.steps, THREE.coordinates))


def test_a_device_that_says_hello_again_with_less_memory() -> None:
    tiers = AdaptiveTiers("abc", RULE)
    assert tiers.position("x", THREE) == 1
    less = Demand(steps=THREE.steps, step=THREE.step, needed=THREE.needed, coordinates=THREE.coordinates, memory=15.0)
    assert tiers.position("x", less) == 2
    assert tiers.position("x", THREE) == 2  # it has to earn the larger one again


def test_a_bound_on_transport_counts_until_more_is_known() -> None:
    """Of a reply that may have been there for long; and never for more than a bound that is tighter."""
    tiers, found = AdaptiveTiers("abc", RULE), []
    tiers.position("x", THREE)
    metrics = {"seconds": 0.7, "seconds-computing": 0.3, "steps": 10.0}
    for sure, most in (
        (None, None),
        (None, 9.0),
        (None, 12.0),
        (None, 4.0),
        (0.5, None),
        (None, 4.0),
        (None, 0.2),
        (3.0, 1.0),
    ):
        tiers.replied("x", "b", metrics, sure, at_most=most)
        [[_, kept]] = tiers.checkpoint()
        found.append(kept["transport_seconds"])
    assert found == [0.0, 9.0, 9.0, 4.0, 0.5, 0.5, 0.2, 3.0]


def test_less_memory_does_not_wipe_out_what_was_learnt() -> None:
    """A device that has missed twice has become careful: it takes 12 good rounds, not 3, to go up again."""
    tiers = AdaptiveTiers("abc", RULE)
    wide = replace(THREE, memory=100.0, step=[0.5, 0.4, 0.1])
    assert tiers.position("x", wide) == 0
    tiers.replied("x", "a", {"seconds": 6.0, "seconds-computing": 6.0, "steps": 10.0}, transport_seconds=0.5)
    tiers.missed("x")
    tiers.missed("x")
    [[_, before]] = tiers.checkpoint()
    found = [before[key] for key in ("position", "required_rounds", "slowdown", "transport_seconds")]
    assert found == [2, 12, 1.2, 0.5]
    tiers.restore([["x", before | {"position": 0}]])
    assert tiers.position("x", replace(wide, memory=15.0)) == 2
    assert tiers.checkpoint() == [["x", before]]
    with pytest.raises(ValueError, match="no tier fits"):
        tiers.position("x", replace(wide, memory=5.0))
    assert tiers.position("x", wide) == 2  # it is back
    assert tiers.checkpoint() == [["x", before]]


def test_what_passes_beside_a_device_is_known_of_those_who_were_looked_for_from_the_start() -> None:
    asked: list[Any] = [SimpleNamespace(node=SimpleNamespace(id=1000 + i), tier="a") for i in range(WINDOW + 4)]
    none: Any = None  # nothing is sent here
    aggregator = RoundAggregator(
        report=RoundReport(number=1),
        assignments=asked,
        messages=(),
        bytes_down=(),
        first_stages=(),
        stages=(),
        hear=lambda *_: True,
        states=none,
    )
    aggregator.accepted = [
        AcceptedUpdate(assignment=one, metrics={"seconds": 2.0}) for one in asked if one.node.id != 1003
    ]
    aggregator.note_transport({i: 2.5 + i for i in range(len(asked))} | {0: 1.9})
    expected = {1000: 0.0} | {1000 + i: 0.5 + i for i in range(1, WINDOW) if i != 3}
    assert aggregator.outcome.transport_seconds == expected


def test_a_checkpoint_goes_on_as_if_nothing_had_happened() -> None:
    whole, stopped = AdaptiveTiers("abc", RULE), AdaptiveTiers("abc", RULE)
    metrics = {"seconds": 0.7, "seconds-computing": 0.3, "steps": 10.0}

    def play(tiers: AdaptiveTiers, rounds: range) -> list[int]:
        positions = []
        for number in rounds:
            for node in (5, 1003, "kitchen"):
                positions.append(tiers.position(node, THREE))
                if number in (2, 6):
                    tiers.missed(node)
                else:
                    tiers.replied(node, "abc"[positions[-1]], metrics)
        return positions

    expected = play(whole, range(30))
    begun = play(stopped, range(13))
    resumed = AdaptiveTiers("abc", RULE)
    resumed.restore(json.loads(json.dumps(stopped.checkpoint())))
    assert begun + play(resumed, range(13, 30)) == expected
    assert len(set(expected)) == 2
