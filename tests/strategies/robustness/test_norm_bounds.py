"""Bounds on one reply: a running quantile by tier, and a range for weights."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, log, nan
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.algebra.average import norm_of
from models.errors import SettingError
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome
from strategies.exchange.update import ClientUpdate, Rejected
from strategies.robustness.norm_bounds import CLIP_RATE, ZERO_RATE, NormBounds, moved
from strategies.robustness.options import GuardOptions

norms = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20)


def reply(norm: float, examples: float = 10.0) -> ClientUpdate:
    difference = torch.tensor([3.0, 4.0]) * (norm / 5)
    return ClientUpdate(difference=difference, metrics={"num-examples": examples}, norm=norm)


def end(limits: NormBounds) -> None:
    limits.learn(RoundOutcome(report=RoundReport(number=1), accepted=()))


def play(limits: NormBounds, *rounds: dict[str, list[float]]) -> list[list[str]]:
    """Tiers and norms of the rounds; the tiers of the rejected ones."""
    rejected: list[list[str]] = []
    for by_tier in rounds:
        limits.begin(1, torch.zeros(0))
        rejected.append([])
        for tier, sent in by_tier.items():
            for norm in sent:
                try:
                    limits.limited(tier, reply(norm))
                except Rejected:
                    rejected[-1].append(tier)
                else:
                    limits.note(tier, norm)
        end(limits)
    return rejected


@given(st.floats(0.01, 100), norms, st.floats(0.05, 0.95), st.floats(0.05, 2))
def test_the_step_is_the_geometric_update(start: float, seen: list[float], quantile: float, rate: float) -> None:
    share = sum(1 for norm in seen if norm <= start) / len(seen)
    assert moved(start, seen, quantile, rate) == pytest.approx(start * exp(-rate * (share - quantile)))


@pytest.mark.parametrize(
    ("quantile", "rate", "spread"), [(0.8, CLIP_RATE, 1.0), (0.98, ZERO_RATE, 0.5), (0.5, CLIP_RATE, 2.0)]
)
def test_the_estimate_finds_the_quantile(quantile: float, rate: float, spread: float) -> None:
    """Over 600 rounds of 40 replies, from a hundred times too much."""
    draws, estimate, found = np.random.default_rng(3), 100.0, []
    for _ in range(600):
        estimate = moved(estimate, list(np.exp(spread * draws.standard_normal(40))), quantile, rate)
        found.append(estimate)
    truth = np.quantile(np.exp(spread * draws.standard_normal(100_000)), quantile)
    assert np.median(found[200:]) == pytest.approx(truth, rel=0.2)


def test_a_long_difference_is_rejected_and_moves_nothing() -> None:
    honest = {"a": [1.0, 1.2, 0.9, 1.1]}
    limits, other = (NormBounds(GuardOptions(guard_norm="zero")) for _ in range(2))
    rejected = play(limits, honest, {"a": [*honest["a"], 1e9]}, honest)
    play(other, honest, honest, honest)
    assert rejected == [[], ["a"], []]
    assert limits.checkpoint() == other.checkpoint()


def test_what_is_shortened_is_as_much_shorter_before_encoding() -> None:
    limits = NormBounds(GuardOptions(guard_norm="clip", guard_clip_start=2.0))
    limits.begin(1, torch.zeros(0))
    came = replace(reply(8.0), metrics={"num-examples": 10.0, "norm": 6.0}, span=(0.3, 2.0))
    found = limits.limited("a", came)
    assert (found.norm, found.metrics["norm"], found.span) == (2.0, 1.5, (0.3, 2.0))
    assert "norm" not in limits.limited("a", reply(8.0)).metrics


def test_a_bound_that_most_are_above_was_wrong() -> None:
    """A tier whose differences are all above the start is let in after a few rounds."""
    limits = NormBounds(GuardOptions(guard_norm="zero"))
    rejected = play(limits, *[{"a": [5000.0, 6000.0], "b": [1.0]}] * 6)
    assert rejected[0] == ["a", "a"]
    assert not rejected[-1]


def test_every_tier_has_its_own_bound() -> None:
    limits = NormBounds(GuardOptions(guard_norm="both"))
    rounds = [{"a": [10.0] * 10, "e": [0.01] * 10}] * 200
    assert not any(play(limits, *rounds))
    assert limits.clip["e"] < 0.02 < 5 < limits.clip["a"]
    limits.begin(1, torch.zeros(0))
    limits.limited("a", reply(9.0))
    with pytest.raises(Rejected, match="quantile of tier e"):
        limits.limited("e", reply(9.0))


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_clipping_shortens_and_keeps_the_direction(norm: float, bound: float) -> None:
    limits = NormBounds(GuardOptions(guard_norm="clip", guard_clip_start=bound))
    before = reply(norm)
    after = limits.limited("a", before)
    assert norm_of(after.difference) == pytest.approx(min(norm, bound), rel=1e-5)
    assert after.norm == pytest.approx(min(norm, bound))
    assert float(after.difference[0] * 4) == pytest.approx(float(after.difference[1] * 3), rel=1e-5)
    assert norm > bound or after is before
    limits.note("a", norm)
    assert limits.report()["clipped"] == ({"a": 1} if norm > bound else {})


@pytest.mark.parametrize("norm", [nan, inf])
def test_what_is_not_finite_is_the_averages_to_refuse(norm: float) -> None:
    limits = NormBounds(GuardOptions(guard_norm="both"))
    assert limits.limited("a", reply(norm)).norm is norm or norm == inf


@given(st.floats(0.5, 1e6))
def test_weights_are_clipped_to_the_range(examples: float) -> None:
    limits = NormBounds(GuardOptions(guard_examples="10, 500"))
    assert limits.limited("a", reply(1.0, examples)).metrics["num-examples"] == min(max(examples, 10), 500)
    assert limits.report() == {"weights_clipped": int(not 10 <= examples <= 500)}


def test_nothing_is_looked_at_when_all_is_off() -> None:
    limits, one = NormBounds(GuardOptions()), reply(1e9, 1e9)
    assert limits.limited("a", one) is one
    limits.note("a", 1e9)
    end(limits)
    assert limits.report() == {}
    assert limits.checkpoint() == ({}, {"zero": {}, "clip": {}})


def test_restored_limits_go_on_as_they_were() -> None:
    rounds = [{"a": [1.0, 2.0, 30.0], "b": [0.1]}] * 3
    one, other = (NormBounds(GuardOptions(guard_norm="both")) for _ in range(2))
    play(one, *rounds)
    other.restore(*one.checkpoint())
    play(one, *rounds)
    play(other, *rounds)
    assert one.checkpoint() == other.checkpoint()
    assert log(one.clip["b"]) < 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("guard-norm", "on"),
        ("guard-mean", "mode"),
        ("guard-zero-quantile", 1.0),
        ("guard-clip-quantile", 0.0),
        ("guard-clip-start", 0.0),
        ("guard-faulty", -1),
        ("min-cover", 0),
        ("dp-noise", -1.0),
        ("dp-clip", 0.0),
        ("dp-delta", 0.0),
        ("dp-epsilon", -1.0),
        ("guard-examples", "5"),
        ("guard-examples", "9, 3"),
        ("guard-examples", "0, 3"),
        ("guard-zero-start", 0.0),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(key: str, value: Any) -> None:
    with pytest.raises(SettingError, match=key) as caught:
        GuardOptions(**{key.replace("-", "_"): value})
    assert "\n" not in str(caught.value)
