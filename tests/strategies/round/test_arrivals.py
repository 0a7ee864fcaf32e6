"""What is known of the time that replies took, where they were looked for and where they were not."""

from __future__ import annotations

from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pytest

from strategies.exchange.messaging import WINDOW
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome
from strategies.nodes.patience import LEAST, Patience
from strategies.round.arrivals import Arrivals
from strategies.settings import Settings


def asked(*tiers: str) -> list[Any]:
    return [SimpleNamespace(node=SimpleNamespace(id=100 + i), tier=tier) for i, tier in enumerate(tiers)]


def test_of_replies_that_were_looked_for() -> None:
    found = Arrivals.of(asked("a", "a", "b"), {0: 2.0, 1: 3.0}, {0: 2.5, 1: 5.0, 2: 9.0}, (), {"a": 100.0})
    assert found == Arrivals(outside=1.25, seconds={"a": 5.0}, beside={"a": 2.0}, transport={100: 0.5, 101: 2.0})


def test_nothing_came() -> None:
    assert Arrivals.of(asked("a"), {}, {}, (), {}) == Arrivals()


def test_one_that_was_there_at_a_late_look_counts_with_what_its_node_says() -> None:
    """And with what replies take beside: as one of this round shows, or rounds before, if it shows none."""
    own, arrived = {0: 5.0, 1: 6.0, 2: 7.0}, {0: 120.0, 1: 124.0, 2: 120.0}
    found = Arrivals.of(asked("a", "a", "b"), own, arrived, {0, 2}, {"a": 50.0, "b": 2.0})
    assert found.seconds == {"a": 124.0, "b": 9.0}
    assert found.beside == {"a": 118.0}
    assert found.transport == {101: 118.0}
    assert found.transport_at_most == {100: 115.0, 102: 113.0}


@pytest.mark.parametrize("said", [inf, nan, 1e300, 121.0])
def test_whatever_a_node_says_the_look_bounds_it(said: float) -> None:
    assert Arrivals.of(asked("a"), {0: said}, {0: 120.0}, {0}, {"a": 1.0}).seconds == {"a": 120.0}


def test_less_than_no_time_is_none() -> None:
    found = Arrivals.of(asked("a"), {0: -50.0}, {0: 120.0}, {0}, {"a": 1.0})
    assert found.seconds == {"a": 1.0}


def test_where_nothing_is_known_of_a_tier_the_look_counts() -> None:
    found = Arrivals.of(asked("a"), {0: 5.0}, {0: 120.0}, {0}, {})
    assert (found.seconds, found.beside) == ({"a": 120.0}, {})


def test_beyond_the_window_only_a_bound_is_known_of_transport() -> None:
    many = range(WINDOW + 1)
    found = Arrivals.of(asked(*"a" * len(many)), dict.fromkeys(many, 1.0), dict.fromkeys(many, 3.0), (), {})
    assert found.transport_at_most == {100 + WINDOW: 2.0}
    assert len(found.transport) == WINDOW


def test_a_node_that_is_silent_costs_no_more_for_long_scores() -> None:
    """Ten rounds of devices that take 5 s and scores that take 120: a minute, as if there were no scores."""
    patience = Patience(Settings())
    for number in range(1, 11):
        unseen = set() if number == 1 else {0}
        after = 5.5 if number == 1 else 120.0
        found = Arrivals.of(asked("a"), {0: 5.0}, {0: after}, unseen, patience.beside)
        report = RoundReport(number=number)
        outcome = RoundOutcome(report=report, accepted=(), arrival_seconds=found.seconds, beside_seconds=found.beside)
        patience.learn(outcome)
        again = Patience(Settings())
        again.restore(*patience.checkpoint())
        assert again.beside == patience.beside == {"a": 0.5}
    limit = patience.limit([1], {"a"})
    assert limit is not None
    assert limit.known == 5.5
    assert limit.seconds(1800.0, 0, 0.0) == LEAST


def test_a_checkpoint_from_before_says_nothing_of_it() -> None:
    patience = Patience(Settings())
    _, values = patience.checkpoint()
    patience.restore({}, {key: value for key, value in values.items() if key != "beside"})
    assert patience.beside == {}
