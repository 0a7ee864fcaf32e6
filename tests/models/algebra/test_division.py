"""The end of an average: rows of equal denominators are divided at once, with the bits of the plain division."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.algebra import division
from models.algebra.division import divide


def _tables(units: tuple[int, int], boxes: list[tuple[int, int, float]], generator: torch.Generator) -> Tensor:
    """Denominators that leading boxes leave; zero where there is none, one unit with a number of its own."""
    table = torch.zeros(units)
    for rows, columns, weight in boxes:
        table[:rows, :columns] += weight
    table[torch.randint(units[0], (1,), generator=generator), torch.randint(units[1], (1,), generator=generator)] += 0.1
    return table


def _same_bits(units: tuple[int, int], unit: tuple[int, int], table: Tensor, scale: float) -> bool:
    generator = torch.Generator().manual_seed(sum(units))
    shape = (units[0], unit[0], units[1], unit[1])
    previous, numerators = (torch.randn(shape, generator=generator) for _ in range(2))
    denominators = table.view(units[0], 1, units[1], 1)
    plain = torch.addcdiv(previous, numerators, denominators.clamp(min=1e-30), value=scale)
    divide(previous, numerators, denominators, scale=scale, least=1e-30, out=previous)
    return torch.equal(previous.view(torch.int32), plain.view(torch.int32))


@given(
    units=st.tuples(st.integers(1, 80), st.sampled_from([1, 7, 16, 48])),
    unit=st.tuples(st.integers(1, 3), st.integers(1, 9)),
    boxes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 48), st.floats(0.1, 9.0)), max_size=4),
    scale=st.sampled_from([1.0, 0.3]),
)
def test_whatever_boxes_there_are_the_bits_are_those_of_the_plain_division(
    units: tuple[int, int], unit: tuple[int, int], boxes: list[tuple[int, int, float]], scale: float
) -> None:
    table = _tables(units, boxes, torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(division, "_LEAST", 0)
        patch.setattr(division, "_SHARED", 1)
        assert _same_bits(units, unit, table, scale)


@pytest.mark.parametrize("different", [False, True])
def test_a_layer_of_a_large_network_is_divided_by_rows_only_if_they_are_alike(
    different: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    plain = torch.addcdiv
    generator = torch.Generator().manual_seed(2)
    table = torch.rand(512, 512, generator=generator) if different else torch.ones(512, 512)
    table[:200, :300] += 1.0

    def counted(previous: Tensor, *rest: Tensor, value: float, out: Tensor) -> Tensor:
        calls.append(len(previous))
        return plain(previous, *rest, value=value, out=out)

    monkeypatch.setattr("models.algebra.division.torch.addcdiv", counted)
    previous, numerators = (torch.randn(512, 1, 512, 9, generator=generator) for _ in range(2))
    divide(previous, numerators, table.view(512, 1, 512, 1), scale=1.0, least=1e-30, out=torch.empty_like(previous))
    assert calls == ([512] if different else [200, 312])
