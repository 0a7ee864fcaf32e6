"""Moments of static batch norm that are far from the others' are left out, in a tier of one within a wider bound."""

from __future__ import annotations

import pytest
import torch

from strategies.robustness.moments import MOST_LENGTH, MOST_LENGTH_ELSEWHERE, MomentPool

EXAMPLES = 10


def said(length: float) -> torch.Tensor:
    """Count, sum and sum of squares of one channel whose root mean square is this."""
    return torch.tensor([EXAMPLES, 0.0, EXAMPLES * length**2], dtype=torch.float64)


def left_out(*lengths: tuple[str, float]) -> list[int]:
    """Positions of those whose tier and root mean square are not counted."""
    found: list[int] = []
    pool = MomentPool(
        {"a": {"norm": 1}, "b": {"norm": 1}}, guard=True, left_out=lambda node, _: found.append(int(node))
    )
    for i, (tier, length) in enumerate(lengths):
        pool.add(tier, i, said(length), EXAMPLES)
    pooled = pool.pooled()
    counted = [(tier, length) for i, (tier, length) in enumerate(lengths) if i not in found]
    for tier in {tier for tier, _ in counted}:
        torch.testing.assert_close(pooled[tier], sum(said(length) for one, length in counted if one == tier))
    return found


@pytest.mark.parametrize(("times", "counts"), [(0.9, True), (1.1, False)])
def test_a_tier_says_what_is_usual_in_it(times: float, counts: bool) -> None:
    assert left_out(*[("b", 1.0)] * 4, ("b", times * MOST_LENGTH)) == ([] if counts else [4])


@pytest.mark.parametrize(("times", "counts"), [(0.9, True), (1.1, False)])
def test_a_tier_of_one_is_held_against_others_within_a_wider_bound(times: float, counts: bool) -> None:
    assert left_out(*[("b", 1.0)] * 3, ("a", times * MOST_LENGTH_ELSEWHERE)) == ([] if counts else [3])


def test_what_is_dead_elsewhere_says_nothing() -> None:
    assert left_out(*[("b", 0.0)] * 3, ("a", 1.0)) == []
    assert left_out(*[("b", 0.0)] * 3, ("b", 1.0)) == [3]


def test_nor_what_is_as_good_as_dead() -> None:
    """As where FIARSE's masks take every weight of a layer of a deep network."""
    assert left_out(*[("b", 1e-10)] * 3, ("a", 1.0), ("a", 1.1)) == []


def test_two_that_are_alike_are_usual_in_their_tier() -> None:
    assert left_out(*[("b", 1.0)] * 3, ("a", 100.0), ("a", 150.0)) == []
    assert left_out(*[("b", 1.0)] * 3, ("a", 1.0), ("a", 1000.0)) == [4]


def test_of_two_nobody_can_say_who_is_odd() -> None:
    assert left_out(("a", 1.0), ("b", 1e15)) == []


@pytest.mark.parametrize(("times", "counts"), [(0.9, True), (1.1, False)])
def test_layers_of_parts_of_other_depths_are_told_by_their_names(times: float, counts: bool) -> None:
    """The deep part has an early layer in common with the shallow ones, behind one that only it has."""
    found: list[int] = []
    channels = {"a": {"stem": 1, "deep": 1, "exit": 1}, "b": {"stem": 1, "exit": 1}}
    pool = MomentPool(channels, guard=True, left_out=lambda node, _: found.append(int(node)))
    for node in range(3):
        pool.add("b", node, torch.cat([said(1.0), 4 * said(1.0)]), EXAMPLES)
    pool.add("a", 3, torch.cat([said(1.0), 100 * said(1e6), 4 * said(times * MOST_LENGTH_ELSEWHERE)]), EXAMPLES)
    pool.pooled()
    assert found == ([] if counts else [3])
