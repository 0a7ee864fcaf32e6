"""Laws of plans and submodels: what a device gets of a state."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import Axis, Kind, Layout, Plan, Submodel, flatten, gather, kept_units
from models.algebra.axes import Along, TensorLayout, stretches_of
from models.algebra.plans import submodel
from tests.models.generators import RATES, all_bits, grid, layouts, plain_part, plans, state_of


def _length(stretch: Along | int, part: Submodel, layout: Layout) -> int:
    if isinstance(stretch, int):
        return stretch
    return stretch.outer * part.sizes.get(stretch.axis, layout.axes[stretch.axis].size) * stretch.inner


@given(layouts(), st.integers(0, 99))
def test_gather_of_everything_is_the_state(layout: Layout, seed: int) -> None:
    state = state_of(layout, seed)
    assert all_bits(gather(state, submodel(layout, Plan()))) == all_bits(state)


@given(st.data(), layouts())
def test_gather_is_indexing_with_the_kept_coordinates(data: st.DataObject, layout: Layout) -> None:
    plan, state = data.draw(plans(layout)), state_of(layout, 1)
    part = submodel(layout, plan)
    expected = {name: state[name][grid(indices)] for name, indices in plain_part(layout, plan).items()}
    assert list(part) == list(expected)
    assert all_bits(part.gather(state)) == all_bits(expected)
    assert {name: block.local_shape for name, block in part.items()} == {n: tuple(t.shape) for n, t in expected.items()}


@given(st.data(), layouts())
def test_a_flat_part_splits_into_what_was_gathered(data: st.DataObject, layout: Layout) -> None:
    part, state = submodel(layout, data.draw(plans(layout))), state_of(layout, 2)
    flat = flatten(part.gather(state))
    assert flat.shape == (part.numel,)
    assert all_bits(part.split(flat)) == all_bits(part.gather(state))
    with pytest.raises(ValueError, match="coordinates"):
        part.split(flat[1:])


@given(layouts(), st.sampled_from(RATES), st.sampled_from(RATES))
def test_narrow_parts_are_leading_slices_of_wide_ones(layout: Layout, one: Fraction, other: Fraction) -> None:
    narrow, wide = (submodel(layout, Plan(rate)) for rate in sorted((one, other)))
    state = state_of(layout, 3)
    outer = wide.gather(state)
    for name, inner in narrow.gather(state).items():
        dims = layout.tensors[name].dims
        view = outer[name]
        for i, dim in enumerate(dims):
            stretches = stretches_of(dim, view.shape[i])
            ours, theirs = ([_length(each, part, layout) for each in stretches] for part in (narrow, wide))
            pieces = []
            for stretch, length, piece in zip(stretches, ours, torch.split(view, theirs, i), strict=True):
                times = 1 if isinstance(stretch, int) else stretch.outer  # each repetition has its own leading part
                several = torch.unflatten(piece, i, (times, -1))
                pieces.append(several.narrow(i + 1, 0, length // times).flatten(i, i + 1))
            view = torch.cat(pieces, i)
        assert torch.equal(inner, view), name


@given(st.data(), layouts())
def test_plans_survive_json(data: st.DataObject, layout: Layout) -> None:
    plan = data.draw(plans(layout))
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "1",
        '{"rat": "1/2"}',
        '{"rate": "1/0"}',
        '{"rate": "x"}',
        '{"rate": 2}',
        '{"rate": []}',
        '{"units": [1]}',
        '{"units": {"w": 3}}',
        '{"depth": 0}',
        '{"depth": []}',
        "{",
    ],
)
def test_what_is_no_plan_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a plan|allowed is|Invalid literal|Expecting"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("size", "rate", "up", "down"),
    [(10, "3/5", 6, 6), (64, "7/10", 45, 44), (3, "1/3", 1, 1), (1, "1/16", 1, 0), (1009, "1/1009", 1, 1)],
)
def test_rates_are_fractions(size: int, rate: str, up: int, down: int) -> None:
    assert kept_units(size, Fraction(rate)) == up
    if down:
        assert kept_units(size, Fraction(rate), floor=True) == down
    else:
        with pytest.raises(ValueError, match="leaves nothing"):
            kept_units(size, Fraction(rate), floor=True)
    with pytest.raises(AssertionError):  # what floats would have made of it
        assert kept_units(10, Fraction(0.2 + 0.2 + 0.2)) == 6


@given(st.integers(1, 60), st.sampled_from(RATES), st.sampled_from((1, -1)), st.integers(0, 500))
def test_rolling_windows_cover_every_unit_equally(size: int, rate: Fraction, step: int, first: int) -> None:
    axis = Axis("w", size)
    layout = Layout({"w": axis}, {"t": TensorLayout(shape=(size,), dims=(Along("w"),))})
    times = [0] * size
    for round_number in range(first, first + size):
        for unit in (
            submodel(layout, Plan(rate, shift=step * round_number)).gather({"t": torch.arange(size)})["t"].tolist()
        ):
            times[unit] += 1
    assert times == [kept_units(size, rate)] * size


@given(layouts())
def test_impossible_plans_are_refused(layout: Layout) -> None:
    size = layout.axes["w0"].size
    bad = [
        *[Plan(units=(("w0", units),)) for units in ((size,), (-1,), ())],
        *[Plan(units=((axis, (0,)),)) for axis in ("nowhere", "classes", "image")],
        Plan(depth=99),
        Plan(Fraction(1, 100), floor=True),
    ]
    for plan in bad:
        with pytest.raises(ValueError, match=r"axis|axes|depth|rate"):
            submodel(layout, plan)


@pytest.mark.parametrize("rate", [Fraction(0), Fraction(-1, 2), Fraction(3, 2)])
def test_rates_outside_their_range_are_refused(rate: Fraction) -> None:
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        Plan(rate)


@given(layouts())
def test_class_and_fixed_axes_are_never_cut(layout: Layout) -> None:
    part = submodel(layout, Plan(Fraction(1, 8), shift=3))
    for name, block in part.items():
        for dim, kept, full in zip(layout.tensors[name].dims, block.local_shape, block.shape, strict=True):
            if all(
                isinstance(one, int) or layout.axes[one.axis].kind is not Kind.WIDTH for one in stretches_of(dim, full)
            ):
                assert kept == full
