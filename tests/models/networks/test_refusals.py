"""A rejected add is as if it had never come: same bits, same counts."""

from __future__ import annotations

from itertools import product
from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import Along, Axis, Block, Layout, PartialAverage, Plan, Submodel
from models.algebra.axes import TensorLayout
from models.algebra.plans import submodel
from tests.models.generators import all_bits, clients, fold, layouts, plans, state_of


@given(st.data(), layouts())
def test_a_rejected_add_leaves_no_trace(data: st.DataObject, layout: Layout) -> None:
    replies, previous = data.draw(clients(layout, most=3)), state_of(layout, 0)
    clean, disturbed = PartialAverage(layout), PartialAverage(layout)
    fold(clean, layout, replies)
    _reject(data, disturbed, layout)
    fold(disturbed, layout, replies)
    _reject(data, disturbed, layout)
    assert disturbed.added == clean.added
    assert all_bits(disturbed.coverage()) == all_bits(clean.coverage())
    assert all_bits(disturbed.finish(previous)) == all_bits(clean.finish(previous))


def _reject(data: st.DataObject, average: PartialAverage, layout: Layout) -> None:
    part = submodel(layout, data.draw(plans(layout)))
    good = torch.ones(part.numel)
    spoilt = good.clone()
    spoilt[data.draw(st.integers(0, part.numel - 1))] = data.draw(st.sampled_from((nan, inf, -inf, 3e38)))
    for difference in (spoilt, good[1:], torch.ones(part.numel + 1), good.double(), good.view(1, -1)):
        with pytest.raises(ValueError, match=r"coordinates|finite"):
            average.add(part, difference)
    for numerator, denominator in product((1.0, nan, inf, 1e38), (1.0, 0.0, -1.0, nan, inf, 1e-50, 1e39)):
        if (numerator, denominator) != (1.0, 1.0):
            with pytest.raises(ValueError, match=r"weight"):
                average.add(part, good, numerator, denominator)
    for labels in ((-1,), (0, layout.axes["classes"].size)):
        with pytest.raises(ValueError, match="labels"):
            average.add(part, good, labels=labels)


@given(layouts())
def test_parts_of_another_network_are_refused(layout: Layout) -> None:
    average = PartialAverage(layout)
    for block in (Block("elsewhere", (2,), (((0, 2),),)), Block("exit1", (97, 1), (((0, 97),), ((0, 1),)))):
        with pytest.raises(ValueError, match="not a tensor of this network"):
            average.add(Submodel({"local": block}), torch.ones(block.numel))
    assert average.added == 0


def test_a_block_that_cuts_through_a_unit_is_refused() -> None:
    layout = Layout({"w": Axis("w", 4)}, {"t": TensorLayout(shape=(12,), dims=(Along("w", inner=3),))})
    with pytest.raises(ValueError, match="cuts through a unit of 3"):
        PartialAverage(layout).add(Submodel({"t": Block("t", (12,), (((0, 4),),))}), torch.ones(4))


@given(layouts())
def test_the_norm_comes_back(layout: Layout) -> None:
    part = submodel(layout, Plan())
    assert PartialAverage(layout).add(part, torch.full((part.numel,), 2.0)) == pytest.approx(2 * part.numel**0.5)
