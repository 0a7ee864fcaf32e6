"""The coordinates that a gradient can reach, in and out of clients' flat vectors, and the others beside them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.algebra.plans import Plan
from models.fused.coordinates import Coordinates
from models.networks.spec import NetworkSpec
from tests.models.fused.support import drawn, fused

# Inputs of 8x8 shrink to 1x1, where of a 3x3 kernel only the middle is met; or to 4x4, where all of it is.
SPECS = {
    "many are not reached": NetworkSpec("cnn", (1, 8, 8), 5, widths=(4, 6, 5, 7), norm="static-batch"),
    "few are not reached": NetworkSpec("cnn", (1, 8, 8), 5, widths=(24, 24), norm="static-batch"),
}


def of(name: str, clients: int) -> tuple[Coordinates, Tensor]:
    """The coordinates, and one client's flat vector."""
    network, flat = drawn(SPECS[name], Plan(), torch.float32)
    return fused(network, flat, SPECS[name], clients).coordinates, flat


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("shared", [True, False], ids=["one start", "a start each"])
def test_what_no_gradient_reaches_is_what_it_was_times_a_factor(name: str, shared: bool) -> None:
    own, flat = of(name, 3)
    starts = flat.expand(3, -1) if shared else torch.stack([flat, flat.flip(0), flat + 1])
    before, factors = starts.clone(), [1.0, 0.9, 0.7]
    own.read(starts)
    into = torch.full(starts.shape, torch.nan)
    own.write_others(starts, factors, into)
    own.write(own.weights, into)
    reached = torch.zeros_like(into)
    own.write(torch.ones_like(own.weights), reached)
    assert 0 < int((reached == 0).sum()) < reached.numel()
    assert (int((reached[0] == 0).sum()) * 16 > len(flat)) == (name == "many are not reached")
    each = zip(reached, before, factors, strict=True)
    wanted = torch.stack([torch.where(row == 1, start, start * factor) for row, start, factor in each])
    assert torch.equal(into, wanted)
    assert torch.equal(starts, before)
    kept = [value for value in vars(own).values() if isinstance(value, Tensor) and value.dtype == torch.int64]
    assert len(kept) == (name == "few are not reached")  # where they are many, their places would be a second state


@pytest.mark.parametrize("name", SPECS)
def test_in_place_it_is_the_same(name: str) -> None:
    own, flat = of(name, 1)
    elsewhere, flats = torch.empty(1, len(flat)), flat[None]
    for into in (elsewhere, flats):
        own.read(flats)
        own.weights.mul_(2.0)
        own.write_others(flats, [0.5], into)
        own.write(own.weights, into)
    assert torch.equal(elsewhere, flats)


def test_every_client_s_numbers_are_read_where_they_lie() -> None:
    """Rows of one memory, one row for all, and one client's own vector, whose views are kept."""
    own, flat = of("many are not reached", 2)
    alone, _ = of("many are not reached", 1)
    rows = torch.stack([flat, 3 * flat])
    for flats in (rows, flat.expand(2, -1), rows.flip(0)):
        own.read(flats)
        for row, client in zip(own.weights.clone(), flats, strict=True):
            for vector in (client, client.clone(), client):
                alone.read(vector[None])
                assert torch.equal(alone.weights[0], row)
