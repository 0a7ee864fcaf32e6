"""A network whose declaration is wrong is refused when its layout is made."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import nn

from models import Along, Axis, declare, layout_of

AXES = {"in": Axis("in", 4), "out": Axis("out", 6)}


def _linear(dims: dict[str, tuple[str | Along | None, ...]]) -> nn.Module:
    return declare(nn.Linear(4, 6, bias=False), dims)


def _with_buffer() -> nn.Module:
    layer = _linear({"weight": ("out", "in"), "steps": ()})
    layer.register_buffer("steps", torch.zeros((), dtype=torch.int64))
    return layer


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: nn.Linear(4, 6), "'weight' has no declared axes"),
        (lambda: declare(nn.Linear(4, 6), {"weight": ("out", "in")}), "'bias' has no declared axes"),
        (lambda: _linear({"weight": ("out",)}), "2 dimensions, its declaration 1"),
        (lambda: _linear({"weight": ("out", "elsewhere")}), "undeclared axis 'elsewhere'"),
        (lambda: _linear({"weight": ("in", "out")}), "dimension 0 is 6, its axes say 4"),
        (lambda: _linear({"weight": ("out", Along("in", inner=2))}), "dimension 1 is 4, its axes say 8"),
        (lambda: _linear({"weight": ("out", Along("in", outer=3))}), "dimension 1 is 4, its axes say 12"),
        (_with_buffer, "only floating-point"),
    ],
)
def test_it_is_refused(network: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout_of(network(), AXES)


def test_the_path_names_the_tensor() -> None:
    with pytest.raises(ValueError, match=r"'1\.0\.weight' has no declared axes"):
        layout_of(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 2))), {})


def test_stage_exit_and_rate_reach_the_tensors() -> None:
    inner = declare(nn.Linear(4, 6), {"weight": ("out", "in"), "bias": ("out",)}, rates={"bias": Fraction(1, 2)})
    network = declare(
        nn.Sequential(declare(nn.Sequential(inner), stage=2), declare(nn.Sequential(inner), exit_of=3)), stage=1
    )
    tensors = layout_of(network, AXES).tensors
    assert [(t.stage, t.exit, t.rate) for t in tensors.values()] == [
        (2, 0, 0),
        (2, 0, Fraction(1, 2)),
        (1, 3, 0),
        (1, 3, Fraction(1, 2)),
    ]


def test_a_second_declaration_adds_to_the_first() -> None:
    layer = declare(declare(nn.Linear(4, 6), {"weight": ("out", "in")}, stage=2), {"bias": ("out",)})
    assert {t.stage for t in layout_of(layer, AXES).tensors.values()} == {2}
