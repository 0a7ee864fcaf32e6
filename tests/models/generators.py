"""Random layouts, plans and rounds for hypothesis, and the same arithmetic the plain way: lists, loops and meshgrid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, prod
from typing import TypeGuard

import torch
from hypothesis import strategies as st
from torch import Tensor

from models import Along, Axis, Kind, Layout, PartialAverage, Plan, Submodel
from models.algebra.axes import Beside, Dim, TensorLayout, length_of, stretches_of
from models.algebra.plans import submodel
from models.algebra.rates import Rate, rate_of, rates_of

RATES = tuple(Fraction(text) for text in ("1", "3/4", "3/5", "1/2", "1/3", "1/4", "1/8"))


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Width axes of any size, a class axis, an image axis; tensors that share them, at any depth."""
    groups = st.sampled_from(("", "x", "y"))
    widths = [Axis(f"w{i}", draw(st.integers(1, 9)), group=draw(groups)) for i in range(draw(st.integers(1, 4)))]
    axes = {
        axis.name: axis
        for axis in [*widths, Axis("classes", draw(st.integers(1, 5)), Kind.CLASS), Axis("image", 3, Kind.FIXED)]
    }
    depth = draw(st.integers(1, 3))
    tensors = {f"t{i}": draw(_tensors(axes, depth)) for i in range(draw(st.integers(1, 5)))}
    head = (Along(widths[-1].name), Along("classes"))
    for stage in range(1, depth + 1):
        tensors[f"exit{stage}"] = TensorLayout(shape=(widths[-1].size, axes["classes"].size), dims=head, exit=stage)
    return Layout(axes, tensors)


@st.composite
def _tensors(draw: st.DrawFn, axes: Mapping[str, Axis], depth: int) -> TensorLayout:
    dims: list[Dim] = []
    shape = []
    for _ in range(draw(st.integers(1, 4))):
        names = [name for name in axes if name != "classes" or not any(runs_along_classes(dim) for dim in dims)]
        dim = draw(st.one_of(st.none(), _alongs(names), _concatenations([name for name in names if name != "classes"])))
        dims.append(dim)
        free = draw(st.integers(1, 3))
        shape.append(sum(length_of(stretch, axes) for stretch in stretches_of(dim, free)))
    rate = draw(st.sampled_from((Fraction(0), Fraction(0), Fraction(1, 2), Fraction(1))))
    return TensorLayout(shape=tuple(shape), dims=tuple(dims), stage=draw(st.integers(0, depth)), rate=rate)


@st.composite
def _alongs(draw: st.DrawFn, names: Sequence[str]) -> Along:
    return Along(draw(st.sampled_from(names)), draw(st.sampled_from((1, 1, 2))), draw(st.sampled_from((1, 1, 3))))


def _concatenations(names: Sequence[str]) -> st.SearchStrategy[Beside]:
    return st.lists(st.one_of(st.integers(1, 3), _alongs(names)), min_size=2, max_size=3).map(tuple).map(Beside)


def runs_along_classes(dim: Dim) -> TypeGuard[Along]:
    return isinstance(dim, Along) and dim.axis == "classes"


def rates(groups: Sequence[str]) -> st.SearchStrategy[Rate]:
    """One for all axes, or some for groups of them."""
    several = st.dictionaries(st.sampled_from(groups), st.sampled_from(RATES)) if groups else st.just({})
    return st.builds(rates_of, st.sampled_from(RATES), several)


@st.composite
def plans(draw: st.DrawFn, layout: Layout) -> Plan:
    """Windows, draws, depths; rounded up or down."""
    widths = [axis for axis in layout.axes.values() if axis.kind is Kind.WIDTH]
    rate = draw(rates(layout.groups))
    drawn = draw(st.lists(st.sampled_from([axis.name for axis in widths]), unique=True, max_size=2))
    units = tuple(
        (name, tuple(draw(st.lists(st.integers(0, layout.axes[name].size - 1), min_size=1, unique=True))))
        for name in drawn
    )
    can_floor = all(floor(axis.size * rate_of(rate, axis.group)) for axis in widths)
    return Plan(
        rate,
        shift=draw(st.integers(-20, 20)),
        depth=draw(st.sampled_from([None, *sorted(layout.exits)])),
        units=units,
        floor=can_floor and draw(st.booleans()),
    )


def state_of(layout: Layout, seed: int) -> dict[str, Tensor]:
    """Values with some -0.0 among them."""
    draws = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(tensor.shape, generator=draws) for name, tensor in layout.tensors.items()}
    for tensor in state.values():
        tensor[torch.rand(tensor.shape, generator=draws) < 0.2] = -0.0
    return state


def assert_near(one: Tensor, other: Tensor) -> None:
    """Equal up to the order of float sums."""
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def bits(tensor: Tensor) -> list[int]:
    """What tells -0.0 from 0.0."""
    return tensor.contiguous().view(torch.int32).flatten().tolist()


def all_bits(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: bits(tensor) for name, tensor in state.items()}


@dataclass(frozen=True, kw_only=True)
class Client:
    """One reply."""

    plan: Plan
    difference: Tensor
    numerator: float = 1.0
    denominator: float = 1.0
    labels: tuple[int, ...] | None = None


@st.composite
def clients(draw: st.DrawFn, layout: Layout, *, most: int = 6) -> list[Client]:
    """Replies of a round; some share a plan."""
    choice = draw(st.lists(plans(layout), min_size=1, max_size=3))
    classes = layout.axes["classes"].size
    replies = []
    for _ in range(draw(st.integers(1, most))):
        plan = draw(st.sampled_from(choice))
        draws = torch.Generator().manual_seed(draw(st.integers(0, 999)))
        labels = draw(st.none() | st.lists(st.integers(0, classes - 1), unique=True).map(tuple))
        difference = torch.randn(submodel(layout, plan).numel, generator=draws)
        # A step is at most three differences long: sums of far longer ones that cancel have no digits left to compare.
        weight, factor = draw(st.sampled_from((1.0, 0.25, 3.0, 640.0))), draw(st.sampled_from((1.0, 0.25, 3.0)))
        replies.append(
            Client(plan=plan, difference=difference, numerator=weight * factor, denominator=weight, labels=labels)
        )
    return replies


def parts_of(layout: Layout, replies: Sequence[Client]) -> dict[Plan, Submodel]:
    """One submodel object per plan, as a server has them."""
    return {plan: submodel(layout, plan) for plan in dict.fromkeys(client.plan for client in replies)}


def fold(average: PartialAverage, layout: Layout, replies: Sequence[Client]) -> PartialAverage:
    """Add all replies."""
    parts = parts_of(layout, replies)
    for client in replies:
        average.add(parts[client.plan], client.difference, client.numerator, client.denominator, client.labels)
    return average


def averaged(layout: Layout, previous: Mapping[str, Tensor], replies: Sequence[Client]) -> dict[str, Tensor]:
    return fold(PartialAverage(layout), layout, replies).finish(previous)


# ---- the plain way ---------------------------------------------------------------------------------------------------


def plain_units(axis: Axis, plan: Plan) -> list[int]:
    """Kept units of an axis in local order, from the definition."""
    if axis.kind is not Kind.WIDTH:
        return list(range(axis.size))
    if axis.name in dict(plan.units):
        return sorted(dict(plan.units)[axis.name])
    share = rate_of(plan.rate, axis.group)
    kept = floor(axis.size * share) if plan.floor else ceil(axis.size * share)
    return list(range(kept)) if kept == axis.size else [(plan.shift + i) % axis.size for i in range(kept)]


def plain_part(layout: Layout, plan: Plan) -> dict[str, list[list[int]]]:
    """Held tensors: kept coordinates per dimension."""
    part = {}
    for name, tensor in layout.tensors.items():
        if (plan.depth is not None and max(tensor.stage, tensor.exit) > plan.depth) or not tensor.rate <= plan.rate:
            continue
        part[name] = [list(range(size)) for size in tensor.shape]
        for i, dim in enumerate(tensor.dims):
            part[name][i], start = [], 0
            for stretch in stretches_of(dim, tensor.shape[i]):
                part[name][i] += [start + coordinate for coordinate in _plain_stretch(stretch, layout, plan)]
                start += length_of(stretch, layout.axes)
    return part


def _plain_stretch(stretch: Along | int, layout: Layout, plan: Plan) -> list[int]:
    if isinstance(stretch, int):
        return list(range(stretch))
    axis = layout.axes[stretch.axis]
    return [
        (outer * axis.size + unit) * stretch.inner + inner
        for outer in range(stretch.outer)
        for unit in plain_units(axis, plan)
        for inner in range(stretch.inner)
    ]


def grid(indices: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """The authors' way: one index tensor of the full local shape per dimension."""
    return torch.meshgrid(*[torch.tensor(index) for index in indices], indexing="ij")


def plain_sums(
    layout: Layout, replies: Sequence[Client]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Numerators, denominators and holders of every coordinate, in float64."""
    sums = [{n: torch.zeros(t.shape, dtype=torch.float64) for n, t in layout.tensors.items()} for _ in range(3)]
    for client in replies:
        offset = 0
        for name, indices in plain_part(layout, client.plan).items():
            shape = [len(index) for index in indices]
            piece = client.difference[offset : offset + prod(shape)].view(shape).double()
            offset += prod(shape)
            where = grid(indices)
            held = torch.ones(shape, dtype=torch.float64)
            for i, dim in enumerate(layout.tensors[name].dims):
                if client.labels is not None and runs_along_classes(dim):
                    label = where[i] // dim.inner % layout.axes["classes"].size
                    held *= torch.isin(label, torch.tensor(client.labels, dtype=torch.int64))
            sums[0][name][where] += client.numerator * piece * held
            sums[1][name][where] += client.denominator * held
            sums[2][name][where] += held
    return sums[0], sums[1], sums[2]


def plain_average(layout: Layout, previous: Mapping[str, Tensor], replies: Sequence[Client]) -> dict[str, Tensor]:
    """previous + Σ aΔ / Σ b, where somebody sent."""
    numerators, denominators, _ = plain_sums(layout, replies)
    return {
        name: (previous[name] + numerators[name] / denominators[name].masked_fill(denominators[name] == 0, 1.0)).float()
        for name in previous
    }


def per_coordinate(average: PartialAverage, layout: Layout) -> dict[str, Tensor]:
    """Coverage spread from units to coordinates."""
    full = {}
    for name, tensor in layout.tensors.items():
        units = average.coverage()[name]
        for i, size in enumerate(tensor.shape):
            units = units.repeat_interleave(size // units.shape[2 * i], dim=2 * i)
        full[name] = units.reshape(tensor.shape)
    return full
