"""A part is the same numbers, whether its tensors are cut out by their boxes or all at once by their places."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from client_app import cutting
from client_app.cutting import cut, full_shapes
from models.algebra.plans import Plan
from models.algebra.submodel import flatten, split
from models.networks.build import layout, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.recent import Recent

SPEC = completed(NetworkSpec("cnn", (1, 8, 8), 10, widths=(6, 8, 10, 12)))
HALF = Fraction(1, 2)
PLANS = [
    Plan(HALF),
    Plan(HALF, shift=5),  # wraps
    Plan(HALF, units=(("conv1", (5, 0, 3)), ("conv2", (7, 1, 2, 0)))),
    Plan(Fraction(1, 3)),
    Plan(),
]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_known", Recent(32))


@pytest.mark.parametrize("most", [1 << 17, 10])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_numbers_are_those_of_the_boxes_however_often(
    plan: Plan, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "MOST", most)
    part, out = submodel(SPEC, plan), torch.full((submodel(SPEC, plan).numel,), torch.nan)
    for seed in range(4):
        full = torch.randn(layout(SPEC).parameters, generator=torch.Generator().manual_seed(seed))
        assert cut(SPEC, plan, full, out) is out
        assert torch.equal(out, flatten(part.gather(split(full, full_shapes(SPEC)))))


def test_places_are_worked_out_for_what_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    by_boxes = cutting._by_boxes

    def watched(spec: NetworkSpec, plan: Plan, full: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.append(full.dtype)
        return by_boxes(spec, plan, full, out)

    monkeypatch.setattr(cutting, "_by_boxes", watched)
    full, out = torch.zeros(layout(SPEC).parameters), torch.zeros(submodel(SPEC, PLANS[0]).numel)
    for _ in range(4):
        cut(SPEC, PLANS[0], full, out)
    assert seen == [torch.float32, torch.int64]


@pytest.mark.parametrize("missing", [1, -1])
def test_a_state_of_another_size_is_refused_every_time(missing: int) -> None:
    full, out = torch.zeros(layout(SPEC).parameters - missing), torch.zeros(submodel(SPEC, PLANS[0]).numel)
    for _ in range(3):
        with pytest.raises(ValueError, match="expected a flat vector"):
            cut(SPEC, PLANS[0], full, out)
