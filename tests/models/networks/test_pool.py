"""Max-pooling where nothing is trained, held against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks import pool
from models.networks.pool import MaxPool2x2
from models.randomness import torch_generator

SIDES = st.integers(2, 9)


@given(st.integers(0, 2**31), st.tuples(st.integers(0, 3), st.integers(1, 3), SIDES, SIDES), st.booleans())
def test_it_is_pytorchs(seed: int, shape: tuple[int, int, int, int], last: bool) -> None:
    x = torch.randint(-3, 4, shape, generator=torch_generator(seed, 0, "server", "pool")).float()  # with ties
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    with torch.no_grad():
        found = MaxPool2x2()(x)
    expected = F.max_pool2d(x, 2)
    assert torch.equal(found, expected)
    if found.numel() and last and min(shape[1:]) > 1 and min(found.shape) > 1:
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_what_is_no_number_stays_none() -> None:
    x = torch.tensor([[[[0.0, torch.nan, 1.0, 2.0], [3.0, 4.0, torch.inf, -torch.inf]]]])
    with torch.no_grad():
        assert torch.equal(MaxPool2x2()(x).isnan(), F.max_pool2d(x, 2).isnan())
        assert MaxPool2x2()(x)[..., 1:].item() == torch.inf


def test_what_has_no_window_is_refused_either_way() -> None:
    for x in (torch.rand(1, 2, 1, 4), torch.rand(1, 2, 4, 1)):
        with pytest.raises(RuntimeError, match="Output size is too small"):
            MaxPool2x2()(x)
        with torch.no_grad(), pytest.raises(RuntimeError, match="Output size is too small"):
            MaxPool2x2()(x)


def test_the_faster_way_is_taken_where_nothing_is_trained_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def largest(x: Tensor) -> Tensor:
        taken.append(x)
        return F.max_pool2d(x, 2)

    monkeypatch.setattr(pool, "_largest", largest)
    module, x = MaxPool2x2(), torch.rand(2, 3, 4, 4)
    module(x)
    assert not taken
    with torch.no_grad():
        module(x)
        assert len(taken) == 1
        torch.export.export(module, (x,))
        module(x.to("meta"))
    assert len(taken) == 1


def test_who_writes_the_network_down_finds_a_pool() -> None:
    with torch.no_grad():
        graph = torch.export.export(nn.Sequential(MaxPool2x2()), (torch.rand(2, 3, 4, 4),)).graph
    assert [str(node.target) for node in graph.nodes if node.op == "call_function"] == ["aten.max_pool2d.default"]
