"""Numbers about what was ever held, against a full vector with zeros."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import Layout, NetworkSpec, Plan, completed, layout, submodel
from models.algebra.box_vector import BoxVector, among, union
from models.algebra.plans import submodel as cut
from models.algebra.submodel import Submodel, flatten, split
from tests.models.generators import layouts, plans

CNN = completed(NetworkSpec("cnn", (1, 8, 8), 5, widths=(8, 8, 16, 16), exits="plain"))


def runs() -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    return st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=4).map(tuple)


def listed(some: tuple[tuple[int, int], ...]) -> list[int]:
    return [i for start, length in some for i in range(start, start + length)]


@given(runs(), runs())
def test_union_and_place(first: tuple[tuple[int, int], ...], second: tuple[tuple[int, int], ...]) -> None:
    both = union(first, second)
    assert listed(both) == sorted({*listed(first), *listed(second)})
    for some in (first, second):
        assert [listed(both)[i] for i in listed(among(some, both))] == listed(some)


class Whole:
    """A full vector, of which a part is cut and to which it is written back."""

    def __init__(self, layout: Layout) -> None:
        self.shapes = layout.shapes
        self.values = torch.zeros(layout.parameters)

    def gather(self, part: Submodel) -> Tensor:
        return flatten(part.gather(split(self.values, self.shapes)))

    def scatter(self, part: Submodel, values: Tensor) -> None:
        whole = split(self.values, self.shapes)
        for name, new in part.split(values).items():
            part[name].scatter(new, whole[part[name].source])


@given(st.data(), layouts())
def test_the_same_bits_as_with_a_full_vector(data: st.DataObject, layout: Layout) -> None:
    whole, held = Whole(layout), BoxVector.empty(layout)
    for number in range(data.draw(st.integers(1, 4))):
        part = cut(layout, data.draw(plans(layout)))
        held = held.widened_by(part)
        assert torch.equal(held.gather(part), whole.gather(part))
        values = torch.randn(part.numel, generator=torch.Generator().manual_seed(number))
        held.scatter(part, values)
        whole.scatter(part, values)
        again = BoxVector.from_vector(held.to_vector(), layout)
        assert again is not None
        assert again.boxes == held.boxes
        assert torch.equal(again.values, held.values)
        held = again
    assert torch.equal(held.gather(held.boxes), whole.gather(held.boxes))
    everything = cut(layout, Plan())
    assert torch.equal(held.widened_by(everything).gather(everything), whole.gather(everything))


def test_nested_parts_are_kept_as_the_largest_of_them() -> None:
    held = BoxVector.empty(layout(CNN))
    half, quarter = (submodel(CNN, Plan(Fraction(1, n), depth=2)) for n in (2, 4))
    for part in (quarter, half, quarter, half):
        held = held.widened_by(part)
    assert held.values.numel() == half.numel < submodel(CNN, Plan()).numel / 10
    assert held.widened_by(quarter) is held


def test_a_window_that_moves_grows_to_the_whole() -> None:
    held = BoxVector.empty(layout(CNN))
    sizes = []
    for shift in range(16):
        held = held.widened_by(submodel(CNN, Plan(Fraction(1, 4), shift=shift)))
        sizes.append(held.values.numel())
    assert sizes == sorted(sizes)
    assert sizes[0] == submodel(CNN, Plan(Fraction(1, 4))).numel
    assert sizes[-1] == layout(CNN).parameters


def test_masks_hide_what_does_not_count() -> None:
    spec = completed(NetworkSpec("mlp", (1, 2, 2), 3, widths=(4,), norm="none"))
    part = submodel(spec, Plan())
    masked = Submodel(
        {
            name: type(block)(block.source, block.shape, block.runs, mask=torch.ones(block.local_shape).tril())
            if len(block.shape) == 2
            else block
            for name, block in part.items()
        }
    )
    whole, held = Whole(layout(spec)), BoxVector.empty(layout(spec)).widened_by(part)
    for kept in (part, masked, part):
        values = torch.arange(1.0, kept.numel + 1)
        held.scatter(kept, values)
        whole.scatter(kept, values)
        assert torch.equal(held.gather(masked), whole.gather(masked))
    assert (held.gather(masked) == 0).any()


@pytest.mark.parametrize("damage", ["network", "length", "runs", "header", "empty", "place", "nan"])
def test_what_cannot_be_read_is_as_good_as_lost(damage: str) -> None:
    held = BoxVector.empty(layout(CNN)).widened_by(submodel(CNN, Plan(Fraction(1, 2))))
    vector, declared = held.to_vector(), layout(CNN)
    if damage == "network":
        declared = layout(completed(NetworkSpec("cnn", (1, 8, 8), 5, widths=(8, 8, 16, 24), exits="plain")))
    elif damage == "length":
        vector = vector[:-1]
    elif damage == "empty":
        vector = vector[:1]
    else:
        place, value = {"runs": (3, 1e6), "header": (1, 1e9), "place": (2, 1e5), "nan": (1, torch.nan)}[damage]
        vector[place] = value
    assert BoxVector.from_vector(vector, declared) is None
