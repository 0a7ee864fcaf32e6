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
from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from models.errors import SettingError
from protocol import Hello, Work
from strategies.aggregation import Aggregation, FedNova, QFedAvg
from strategies.exchange.assignment import TrainAssignment
from strategies.exchange.node import Node
from strategies.exchange.report import RoundReport
from strategies.exchange.stateful import RoundOutcome
from strategies.exchange.update import ClientUpdate, Rejected
from strategies.robustness.last_said import LastSaid
from strategies.robustness.norm_bounds import CLIP_RATE, NormBounds, moved
from strategies.robustness.options import GuardOptions

norms = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20)


def reply(norm: float, examples: float = 10.0, **metrics: float) -> ClientUpdate:
    difference = torch.tensor([3.0, 4.0]) * (norm / 5)
    said = {"num-examples": examples} | {key.replace("_", "-"): value for key, value in metrics.items()}
    return ClientUpdate(difference=difference, metrics=said, norm=norm, norm_received=norm)


def asked(tier: str = "a", node: int = 0, steps: int = 10, examples: int = 10) -> TrainAssignment:
    whom = Node(1000 + node, Hello(node=node, examples=examples))
    work = Work(local_steps=steps)
    return TrainAssignment(node=whom, tier=tier, plan=Plan(), part=Submodel({}), nonce="", work=work)


def end(limits: NormBounds) -> None:
    limits.learn(RoundOutcome(report=RoundReport(number=1), accepted=()))


def play(limits: NormBounds, *rounds: dict[str, list[float]]) -> list[list[str]]:
    """Tiers and norms of the rounds, every tier's nodes in the same order; the tiers of the rejected ones."""
    rejected: list[list[str]] = []
    for by_tier in rounds:
        limits.begin(1, torch.zeros(0))
        rejected.append([])
        sent = [(tier, node, norm) for tier, norms in by_tier.items() for node, norm in enumerate(norms)]
        whom = [(asked(tier, 100 * ord(tier[0]) + node), reply(norm)) for tier, node, norm in sent]
        for one, update in whom:
            limits.hear(one, update)
        for one, update in whom:
            try:
                limits.limited(one, update)
            except Rejected:
                rejected[-1].append(one.tier)
            else:
                limits.accepted(one, update)
        end(limits)
    return rejected


@given(st.floats(0.01, 100), norms, st.floats(0.05, 0.95), st.floats(0.05, 2))
def test_the_step_is_the_geometric_update(start: float, seen: list[float], quantile: float, rate: float) -> None:
    share = sum(1 for norm in seen if norm <= start) / len(seen)
    assert moved(start, seen, quantile, rate) == pytest.approx(start * exp(-rate * (share - quantile)))


@pytest.mark.parametrize(
    ("quantile", "rate", "spread"), [(0.8, CLIP_RATE, 1.0), (0.98, log(10), 0.5), (0.5, CLIP_RATE, 2.0)]
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
    found = limits.limited(asked("a"), came)
    assert (found.norm, found.metrics["norm"], found.span) == (2.0, 1.5, (0.3, 2.0))
    assert "norm" not in limits.limited(asked("a"), reply(8.0)).metrics


def test_a_tier_that_grows_in_one_round_counts_in_it() -> None:
    """Its own present median counts too; who is far above that is still odd."""
    limits, once = NormBounds(GuardOptions()), [1.0, 1.1, 0.9, 1.2, 0.8]
    grown = [40 * norm for norm in once]
    assert play(limits, {"a": once}, {"a": grown}, {"a": [*grown[:4], 900.0]}) == [[], [], ["a"]]


def test_a_tier_that_joins_with_long_differences_counts() -> None:
    limits = NormBounds(GuardOptions())
    alone, both = {"b": [1.0, 1.1, 0.9]}, {"b": [1.0, 1.1, 0.9], "a": [5000.0, 6000.0, 5500.0]}
    assert play(limits, alone, both, both) == [[], [], []]


def test_a_few_of_a_tier_do_not_say_what_is_usual_in_it() -> None:
    """Of ten, two lie; in a round of three they are the majority, and what the ten said counts."""
    limits = NormBounds(GuardOptions())
    assert play(limits, {"a": [1.0] * 10}, {"a": [1.0, 50.0, 60.0]}) == [[], ["a", "a"]]


def test_a_bound_that_most_are_above_was_wrong() -> None:
    """What most of few are above is learnt anew, for the next round."""
    limits, few = NormBounds(GuardOptions()), {"a": [50.0, 55.0, 60.0, 52.0]}
    assert play(limits, {"a": [1.0] * 10}, few, few) == [[], ["a"] * 4, ["a"] * 4]
    assert play(limits, {"a": [51.0] * 6}, few) == [[], []]  # most of those that are remembered


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("factor", [10.0, 1e6])
def test_the_first_round_says_what_is_usual(place: int, factor: float) -> None:
    """Wherever among the first replies the long one is; nor does it lift the bound by and by."""
    sent = [1.0, 1.2, 0.9, 1.1, 0.8]
    sent[place] *= factor
    limits = NormBounds(GuardOptions())
    assert play(limits, *[{"a": sent}] * 5) == [["a"]] * 5
    assert limits.report()["norm_bounds"]["a"] < 5


def test_one_of_ten_moves_no_bound_by_and_by() -> None:
    """It sends as much as it may, every round, and never gets further than so many times the median."""
    limits, sent = NormBounds(GuardOptions()), 1.0
    for _ in range(30):
        play(limits, {"a": [1.0] * 9 + [sent]})
        sent = 0.999 * limits.report()["norm_bounds"]["a"]
    assert sent < 4.0


def test_a_tier_of_two_is_held_against_all() -> None:
    limits = NormBounds(GuardOptions())
    assert play(limits, {"a": [1.0, 1.1], "b": [0.9, 900.0], "c": [1.0]}) == [["b"]]


def test_two_nodes_cannot_tell_who_is_odd() -> None:
    assert play(NormBounds(GuardOptions()), *[{"a": [1.0, 1e6]}] * 3) == [[], [], []]


def test_more_steps_come_further() -> None:
    """Of a device of ten times the data; the same length after the usual steps is refused."""
    for steps, refused in ((100, False), (10, True)):
        limits = NormBounds(GuardOptions())
        limits.begin(1, torch.zeros(0))
        for node in range(4):
            limits.hear(asked(node=node), reply(1.0))
        one = asked(node=9, steps=steps)
        limits.hear(one, reply(9.0))
        if refused:
            with pytest.raises(Rejected, match="usual in tier a"):
                limits.limited(one, reply(9.0))
        else:
            limits.limited(one, reply(9.0))


@pytest.mark.parametrize(("rule", "refused"), [(FedNova(), True), (None, False)])
def test_few_steps_are_short_where_steps_count(rule: Aggregation | None, refused: bool) -> None:
    """Divided by one step instead of ten, an ordinary difference would be ten times too long."""
    limits = NormBounds(GuardOptions(), rule)
    limits.begin(1, torch.zeros(0))
    for node in range(4):
        limits.hear(asked(node=node), reply(1.0, steps=10))
    one = asked(node=9)
    limits.hear(one, reply(1.0, steps=1))
    if refused:
        with pytest.raises(Rejected, match="usual in tier a"):
            limits.limited(one, reply(1.0, steps=1))
    else:
        limits.limited(one, reply(1.0, steps=1))


@pytest.mark.parametrize(
    ("q", "losses", "expected"),
    [
        (1.0, [1.0, 2.0, 3.0], 4.5),  # half as much again as the largest of the others
        (2.0, [1.0, 2.0, 3.0], 3 * 1.5**0.5),
        (1.0, [1.0, 1.0, 1.0, 3.9], 4.0),  # four times the usual
        (2.0, [1.0, 1.0, 1.0, 1.9], 2.0),
        (0.0, [1.0, 2.0, 3.0], 1e20),
    ],
)
def test_a_loss_weighs_at_most_so_many_times_what_others_say(q: float, losses: list[float], expected: float) -> None:
    limits = NormBounds(GuardOptions(), QFedAvg(q))
    limits.begin(1, torch.zeros(0))
    came = [(asked(node=node), reply(1.0, loss_before=loss)) for node, loss in enumerate([*losses, 1e20])]
    for one, update in came:
        limits.hear(one, update)
    found = [limits.limited(one, update).metrics["loss-before"] for one, update in came]
    assert found[:-1] == losses
    assert found[-1] == pytest.approx(expected)


def test_every_cluster_has_its_own_bound() -> None:
    limits = NormBounds(GuardOptions())
    limits.begin(1, torch.zeros(0))
    replies = [
        (asked(node=i), replace(reply(norm), cluster=i // 3)) for i, norm in enumerate([9.0, 9.5, 8.0, 1.0, 0.9, 1.1])
    ]
    for one, update in replies:
        limits.hear(one, update)
    for one, update in replies:
        limits.limited(one, update)
    with pytest.raises(Rejected, match="tier a of cluster 1"):
        limits.limited(asked(node=9), replace(reply(9.0), cluster=1))


def test_every_tier_has_its_own_bound() -> None:
    limits = NormBounds(GuardOptions(guard_norm="both"))
    rounds = [{"a": [10.0] * 10, "e": [0.01] * 10}] * 200
    assert not any(play(limits, *rounds))
    assert limits.clip["e"] < 0.02 < 5 < limits.clip["a"]
    limits.begin(1, torch.zeros(0))
    limits.limited(asked("a"), reply(9.0))
    with pytest.raises(Rejected, match="usual in tier e"):
        limits.limited(asked("e"), reply(9.0))


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_clipping_shortens_and_keeps_the_direction(norm: float, bound: float) -> None:
    limits = NormBounds(GuardOptions(guard_norm="clip", guard_clip_start=bound))
    before = reply(norm)
    after = limits.limited(asked("a"), before)
    assert norm_of(after.difference) == pytest.approx(min(norm, bound), rel=1e-5)
    assert after.norm == pytest.approx(min(norm, bound))
    assert float(after.difference[0] * 4) == pytest.approx(float(after.difference[1] * 3), rel=1e-5)
    assert norm > bound or after is before
    limits.accepted(asked("a"), after)
    assert limits.report()["clipped"] == ({"a": 1} if norm > bound else {})


@pytest.mark.parametrize("norm", [nan, inf])
def test_what_is_not_finite_is_the_averages_to_refuse(norm: float) -> None:
    limits = NormBounds(GuardOptions(guard_norm="both"))
    assert limits.limited(asked("a"), reply(norm)).norm is norm or norm == inf


@given(st.floats(0.5, 1e6))
def test_weights_are_clipped_to_the_range(examples: float) -> None:
    limits = NormBounds(GuardOptions(guard=False, guard_examples="10, 500"))
    assert limits.limited(asked("a"), reply(1.0, examples)).metrics["num-examples"] == min(max(examples, 10), 500)
    assert limits.report() == {"weights_clipped": int(not 10 < examples < 500)}


def test_nothing_is_looked_at_when_all_is_off() -> None:
    limits, one = NormBounds(GuardOptions(guard=False, guard_rollbacks=0)), reply(1e9, 1e9)
    assert not limits.on
    assert limits.hear(asked("a"), one)
    assert limits.limited(asked("a"), one) is one
    limits.accepted(asked("a"), one)
    end(limits)
    assert limits.report() == {}
    assert limits.checkpoint() == ({}, {"norms": {}, "losses": {}, "clip": {}})


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
        ("guard-zero-multiple", 1.0),
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
    ],
)
def test_what_cannot_be_is_refused_in_one_line(key: str, value: Any) -> None:
    with pytest.raises(SettingError, match=key) as caught:
        GuardOptions(**{key.replace("-", "_"): value})
    assert "\n" not in str(caught.value)


def test_a_tier_of_one_is_held_against_others_within_a_wider_bound() -> None:
    said = LastSaid()
    for node in range(3):
        said.note("e", node, (1.0,))
    said.note("a", 9, (30.0,))
    assert said.usual_of("e") == ((1.0,), True)
    assert said.usual_of("a") == ((1.0,), False)
    assert said.usual_of("e", LastSaid())[1]
