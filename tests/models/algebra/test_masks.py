"""Element masks: an average per coordinate, where a device may hold any subset of a block."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import Layout, PartialAverage, Plan, Submodel, flatten
from models.algebra.plans import submodel
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
    plans,
    state_of,
)


def _masked(part: Submodel, seed: int) -> Submodel:
    draws = torch.Generator().manual_seed(seed)
    blocks = {n: dataclasses.replace(b, mask=torch.rand(b.local_shape, generator=draws) < 0.5) for n, b in part.items()}
    return Submodel(blocks, part.sizes)


@given(st.data(), layouts(), st.integers(1, 5))
def test_masked_parts_average_over_those_who_hold_the_coordinate(
    data: st.DataObject, layout: Layout, count: int
) -> None:
    average, previous = PartialAverage(layout, per_coordinate=True), state_of(layout, 0)
    shape = layout.shapes
    above, below = ({name: torch.zeros(s, dtype=torch.float64) for name, s in shape.items()} for _ in range(2))
    for i in range(count):
        part = _masked(submodel(layout, data.draw(plans(layout))), i)
        difference = torch.randn(part.numel, generator=torch.Generator().manual_seed(i))
        weight = data.draw(st.sampled_from((1.0, 5.0)))
        for _ in range(data.draw(st.integers(1, 2))):  # twice: summed before it is put in its place
            average.add(part, difference, weight, weight)
            for name, piece in part.split(difference).items():
                mask = part[name].mask
                assert mask is not None
                numbers = torch.arange(above[name].numel()).view(shape[name])
                places = dataclasses.replace(part[name], mask=None).gather(numbers)[mask]
                above[name].view(-1)[places] += weight * piece[mask].double()
                below[name].view(-1)[places] += weight
    for name, tensor in average.finish(previous).items():
        free = below[name] == 0
        assert bits(tensor[free]) == bits(previous[name][free])
        expected = previous[name] + above[name] / below[name].masked_fill(free, 1)
        assert_near(tensor, expected.float())


@given(st.data(), layouts())
def test_without_masks_it_is_the_same_average(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout)), state_of(layout, 0)
    average = fold(PartialAverage(layout, per_coordinate=True), layout, replies)
    expected, (_, _, holders) = plain_average(layout, previous, replies), plain_sums(layout, replies)
    for name, counts in per_coordinate(average, layout).items():
        assert torch.equal(counts.double(), holders[name])
    for name, tensor in average.finish(previous).items():
        assert_near(tensor, expected[name])


@given(layouts())
def test_full_masks_are_no_masks(layout: Layout) -> None:
    part, previous = submodel(layout, Plan()), state_of(layout, 0)
    full = Submodel({n: dataclasses.replace(b, mask=torch.ones(b.local_shape)) for n, b in part.items()}, part.sizes)
    average = PartialAverage(layout, per_coordinate=True)
    difference = torch.randn(part.numel, generator=torch.Generator().manual_seed(1))
    average.add(full, difference)
    expected = fold(PartialAverage(layout), layout, [Client(plan=Plan(), difference=difference)])
    assert all_bits(average.finish(previous)) == all_bits(expected.finish(previous))


@given(layouts())
def test_gathering_a_masked_part_leaves_zeros(layout: Layout) -> None:
    part, state = _masked(submodel(layout, Plan()), 1), {n: t + 1 for n, t in state_of(layout, 0).items()}
    for name, tensor in part.gather(state).items():
        mask = part[name].mask
        assert mask is not None
        assert torch.equal(tensor, state[name] * mask)


@given(layouts())
def test_masks_need_denominators_per_coordinate(layout: Layout) -> None:
    tensors = {
        n: t
        for n, t in layout.tensors.items()
        if any(d is None and s > 1 for d, s in zip(t.dims, t.shape, strict=True))
    }
    if not tensors:
        return
    part = _masked(submodel(layout, Plan()), 2)
    with pytest.raises(ValueError, match="per_coordinate"):
        PartialAverage(layout).add(part, flatten(part.gather(state_of(layout, 0))))
