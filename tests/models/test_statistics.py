"""Moments are pooled exactly, however the data were batched or distributed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models import NetworkSpec, Plan, build_part, completed, initial_state, submodel, torch_generator
from models.norms.layers import Moments, StaticBatchNorm
from models.statistics import collect, needs_statistics, set_statistics, static_norms

SPEC = completed(NetworkSpec("cnn", (2, 8, 8), 3, widths=(4, 6)))


def _network() -> nn.Module:
    network = build_part(SPEC, Plan())
    network.load_state_dict(
        submodel(SPEC, Plan()).gather(initial_state(SPEC, torch_generator(0, 0, "server", "initial")))
    )
    return network


def _images(count: int, seed: int = 0) -> Tensor:
    return 3 + 2 * torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 5))
def test_moments_of_pieces_add_to_moments_of_the_whole(sizes: list[int], seed: int) -> None:
    x = 100 + torch.randn(sum(sizes), 3, 5, generator=torch.Generator().manual_seed(seed))
    moments = Moments(3)
    for piece in torch.split(x, sizes):
        moments.add(piece)
    wide = x.double().movedim(1, 0).flatten(1)
    mean = moments.total / moments.count
    torch.testing.assert_close(mean, wide.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        moments.square / moments.count - mean.square(), wide.var(1, correction=0), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("split", [(40,), (10, 30), (1, 2, 37)])
def test_devices_pool_by_adding(split: tuple[int, ...]) -> None:
    """Exact at the first norm, whose inputs no other batch has touched."""
    network, pieces = _network(), torch.split(_images(40), list(split))
    pooled = torch.stack([collect(network, [piece]) for piece in pieces]).sum(0)
    first = 1 + 2 * 4
    whole = collect(network, [_images(40)])
    torch.testing.assert_close(pooled[:first], whole[:first], rtol=1e-6, atol=1e-6)
    set_statistics(network, pooled)
    statistics = next(iter(static_norms(network).values())).statistics
    assert statistics is not None
    conv = network.get_submodule("stages.0.0")(_images(40)).movedim(1, 0).flatten(1)
    torch.testing.assert_close(statistics[0], conv.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics[1], conv.var(1, correction=0), rtol=1e-4, atol=1e-5)


def test_collecting_leaves_the_network_as_it_was_but_evaluating() -> None:
    network = _network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    collect(network, [_images(8)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    assert all(layer.collector is None for layer in static_norms(network).values())


def test_a_failing_batch_stops_the_collecting() -> None:
    network = _network()
    with pytest.raises(RuntimeError):
        collect(network, [torch.zeros(1, 5, 8, 8)])
    assert all(layer.collector is None for layer in static_norms(network).values())


def test_what_does_not_fit_is_refused() -> None:
    network = _network()
    moments = collect(network, [_images(8)])
    nothing, poisoned = torch.zeros_like(moments), moments.clone()
    poisoned[-1] = torch.nan
    for bad in (moments[1:], nothing, poisoned):
        with pytest.raises(ValueError, match=r"moments|statistics"):
            set_statistics(network, bad)


def test_a_constant_channel_has_variance_zero() -> None:
    layer = nn.Sequential(StaticBatchNorm(2))
    set_statistics(layer, collect(layer, [torch.full((7, 2), 0.1)]))
    statistics = static_norms(layer)["0"].statistics
    assert statistics is not None
    assert not statistics[1].any() or statistics[1].max() < 1e-12
    assert layer(torch.ones(1, 2)).isfinite().all()


def test_networks_without_static_norms_need_nothing() -> None:
    network = build_part(completed(NetworkSpec("mlp", (1, 2, 2), 3, widths=(4,), norm="group")), Plan())
    assert not needs_statistics(network)
    assert needs_statistics(_network())
    assert collect(network, []).numel() == 0
    set_statistics(network, torch.zeros(0, dtype=torch.float64))
