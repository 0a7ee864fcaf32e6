"""A part is the same numbers, whether its tensors are cut out by their boxes or all at once by their places."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from client_app import cutting
from client_app.cutting import cut
from models.algebra.axes import Layout
from models.algebra.plans import Plan
from models.algebra.submodel import Submodel, flatten, split
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.recent import Recent

HALF, THIRD = Fraction(1, 2), Fraction(1, 3)
SPEC = completed(NetworkSpec("cnn", (1, 8, 8), 10, widths=(6, 8, 10, 12)))
PER_WIDTH = completed(
    NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8), norm="batch-per-width", rates=(HALF, Fraction(1)))
)
NETS = completed(NetworkSpec("mlp", (1, 8, 8), 10, widths=(16, 8), bases=4))
CASES = [
    (SPEC, Plan(HALF)),
    (SPEC, Plan(HALF, shift=5)),  # wraps
    (SPEC, Plan(HALF, units=(("conv1", (5, 0, 3)), ("conv2", (7, 1, 2, 0))))),
    (SPEC, Plan(THIRD)),
    (SPEC, Plan()),
    (PER_WIDTH, Plan(HALF)),
    (NETS, Plan(bases=(2, 0))),
]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_known", Recent(4))


@pytest.mark.parametrize("most", [1 << 17, 10])
@pytest.mark.parametrize(("spec", "plan"), CASES, ids=str)
def test_the_numbers_are_those_of_the_boxes_however_often(
    spec: NetworkSpec, plan: Plan, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "MOST", most)
    part, whole = submodel(spec, plan), layout(spec)
    out = torch.full((part.numel,), torch.nan)
    for seed in range(4):
        full = torch.randn(whole.parameters, generator=torch.Generator().manual_seed(seed))
        assert cut(spec, plan, full, out) is out
        assert torch.equal(out, flatten(part.gather(split(full, whole.shapes))))


def test_places_are_worked_out_once_for_what_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, places = list[int](), cutting._places

    def watched(part: Submodel, whole: Layout) -> Tensor:
        asked.append(part.numel)
        return places(part, whole)

    monkeypatch.setattr(cutting, "_places", watched)
    full, outs = (
        torch.zeros(layout(SPEC).parameters),
        [torch.zeros(submodel(SPEC, Plan(rate)).numel) for rate in (HALF, THIRD)],
    )
    cut(SPEC, Plan(HALF), full, outs[0])
    assert not asked
    for _ in range(3):
        cut(SPEC, Plan(HALF), full, outs[0])
        cut(SPEC, Plan(THIRD), full, outs[1])
    assert asked == [len(out) for out in outs]


@pytest.mark.parametrize(("more", "longer"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_vectors_of_another_length_are_refused_every_time(more: int, longer: int) -> None:
    full, out = torch.zeros(layout(SPEC).parameters), torch.zeros(submodel(SPEC, Plan(HALF)).numel)
    for _ in range(2):
        cut(SPEC, Plan(HALF), full, out)
    for _ in range(2):
        with pytest.raises(ValueError, match="expected a flat vector"):
            cut(SPEC, Plan(HALF), torch.zeros(len(full) + more), torch.zeros(len(out) + longer))
