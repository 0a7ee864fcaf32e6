"""Trimmed mean and median by coverage, and coordinates that too few held, against plain lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import Layout, NetworkSpec, PartialAverage, Plan, Submodel, completed
from models import layout as layout_of
from models.algebra.plans import submodel
from models.algebra.robust_average import Kind, RobustAverage
from tests.models.algebra.test_masks import _masked
from tests.models.generators import (
    Client,
    all_bits,
    assert_near,
    bits,
    clients,
    fold,
    layouts,
    per_coordinate,
    plain_average,
    plain_sums,
    state_of,
)

few = settings(max_examples=15, deadline=None)  # plain lists are slow
KINDS: tuple[Kind, ...] = ("trimmed-mean", "median")


def plain_middle(kind: str, faulty: int, values: Sequence[float]) -> float:
    ordered = sorted(values)
    return median(ordered) if kind == "median" else fmean(ordered[faulty : len(ordered) - faulty])


def steps(layout: Layout, replies: Sequence[Client]) -> dict[str, list[list[float]]]:
    """By tensor and flat coordinate, what each of its holders would make it move by."""
    found: dict[str, list[list[float]]] = {name: [[] for _ in t.flatten()] for name, t in state_of(layout, 0).items()}
    for client in replies:
        numerators, denominators, holders = plain_sums(layout, [client])
        for name, held in holders.items():
            for i in held.flatten().nonzero().flatten().tolist():
                found[name][i].append(float(numerators[name].flatten()[i] / denominators[name].flatten()[i]))
    return found


@few
@given(st.data(), layouts(), st.sampled_from(KINDS), st.integers(0, 2), st.integers(1, 4))
def test_it_is_the_middle_of_a_plain_list(
    data: st.DataObject, layout: Layout, kind: Kind, faulty: int, least: int
) -> None:
    replies, previous = data.draw(clients(layout, most=8)), state_of(layout, 0)
    new = fold(RobustAverage(layout, kind, faulty), layout, replies).finish(previous, least=least)
    for name, values in steps(layout, replies).items():
        before, after = previous[name].flatten(), new[name].flatten()
        for i, held in enumerate(values):
            if len(held) < max(2 * faulty + 1, least):
                assert bits(before[i]) == bits(after[i])
            else:
                assert float(after[i]) == pytest.approx(
                    float(before[i]) + plain_middle(kind, faulty, held), rel=1e-4, abs=1e-4
                )


@few
@given(st.data(), layouts(), st.sampled_from(KINDS))
def test_order_changes_no_bit(data: st.DataObject, layout: Layout, kind: Kind) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    other = data.draw(st.permutations(replies))
    one = fold(RobustAverage(layout, kind, 1), layout, replies).finish(previous)
    assert all_bits(one) == all_bits(fold(RobustAverage(layout, kind, 1), layout, other).finish(previous))


@few
@given(st.data(), layouts(), st.sampled_from(KINDS), st.integers(1, 2), st.sampled_from((1e6, -1e6)))
def test_so_many_wrong_ones_cannot_leave_the_others(
    data: st.DataObject, layout: Layout, kind: Kind, faulty: int, wrong: float
) -> None:
    """With f wrong replies the result stays between what the honest holders of the coordinate said."""
    honest, previous = data.draw(clients(layout, most=8)), {n: 0 * t for n, t in state_of(layout, 0).items()}
    lies = [Client(plan=c.plan, difference=torch.full_like(c.difference, wrong)) for c in honest[:faulty]]
    new = fold(RobustAverage(layout, kind, faulty), layout, honest + lies).finish(previous)
    for name, values in steps(layout, honest).items():
        for said, moved in zip(values, new[name].flatten().tolist(), strict=True):
            if moved:  # else too few held it
                slack = 1e-5 * (1 + max(map(abs, said)))
                assert min(said) - slack <= moved <= max(said) + slack


@few
@given(st.data(), layouts())
def test_without_faulty_ones_the_trimmed_mean_is_the_mean(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    equal = [
        Client(plan=c.plan, difference=c.difference, numerator=2.0, denominator=2.0, labels=c.labels) for c in replies
    ]
    new = fold(RobustAverage(layout, "trimmed-mean", 0), layout, equal).finish(previous)
    for name, tensor in plain_average(layout, previous, equal).items():
        assert_near(new[name], tensor)


@few
@given(st.data(), layouts(), st.integers(2, 5))
def test_what_too_few_held_keeps_its_bits_and_counts_as_uncovered(
    data: st.DataObject, layout: Layout, least: int
) -> None:
    replies, previous = data.draw(clients(layout, most=8)), state_of(layout, 0)
    average = fold(PartialAverage(layout), layout, replies)
    new, (_, _, holders) = average.finish(previous, least=least), plain_sums(layout, replies)
    plain, counted = plain_average(layout, previous, replies), per_coordinate(average, layout)
    for name, tensor in new.items():
        few = holders[name] < least
        assert bits(tensor[few]) == bits(previous[name][few])
        assert_near(tensor[~few], plain[name][~few])
        assert torch.equal(counted[name].double(), holders[name].masked_fill(few, 0))


@few
@given(st.data(), layouts())
def test_one_holder_suffices_unless_more_are_asked_for(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    one, other = (fold(PartialAverage(layout), layout, replies) for _ in range(2))
    assert all_bits(one.finish(previous)) == all_bits(other.finish(previous, least=1))


@few
@given(st.data(), layouts(), st.sampled_from(KINDS))
def test_masked_parts(data: st.DataObject, layout: Layout, kind: Kind) -> None:
    previous, average = state_of(layout, 0), RobustAverage(layout, kind, 1, per_coordinate=True)
    said: dict[str, list[list[float]]] = {name: [[] for _ in t.flatten()] for name, t in previous.items()}
    for i, client in enumerate(data.draw(clients(layout, most=8))):
        part: Submodel = _masked(submodel(layout, client.plan), i)
        average.add(part, client.difference)
        for name, piece in part.split(client.difference).items():
            mask = part[name].mask
            assert mask is not None
            numbers = torch.arange(previous[name].numel()).view(previous[name].shape)
            block = type(part[name])(part[name].source, part[name].shape, part[name].runs)
            for place, value in zip(block.gather(numbers)[mask].tolist(), piece[mask].tolist(), strict=True):
                said[name][place].append(value)
    new = average.finish(previous)
    for name, values in said.items():
        for held, before, after in zip(values, previous[name].flatten(), new[name].flatten(), strict=True):
            if len(held) < 3:
                assert bits(before) == bits(after)
            else:
                assert float(after) == pytest.approx(float(before) + plain_middle(kind, 1, held), rel=1e-4, abs=1e-4)


def test_a_round_forgets_the_one_before() -> None:
    layout = layout_of(completed(NetworkSpec("mlp", (1, 4, 4), 3, widths=(5,))))
    part, average, previous = submodel(layout, Plan()), RobustAverage(layout, "median", 1), state_of(layout, 0)
    for value in (1.0, 5.0):
        average.reset()
        for i in range(3):
            average.add(part, torch.full((part.numel,), value + i))
        new = average.finish(previous)
        assert_near(_flat(new), _flat(previous) + value + 1)


def _flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in state.values()])
