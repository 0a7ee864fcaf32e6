"""Channels innermost, positions innermost: the same numbers, and gradients in the order of what they belong to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.networks.builder import Conv2d
from models.networks.memory_order import (
    MOST_CHANNELS,
    PositionsInnermost,
    is_narrow,
    is_unsafe,
    picked,
    skips_positions,
    turned,
)


@pytest.mark.parametrize("last", [True, False])
def test_what_is_flattened_has_positions_innermost_and_its_gradient_the_order_of_the_features(last: bool) -> None:
    order = torch.channels_last if last else torch.contiguous_format
    x = torch.rand(2, 3, 4, 5).contiguous(memory_format=order).requires_grad_()
    features = x * 2  # not a leaf, to whose order gradients are brought
    gradients: list[Tensor] = []
    features.register_hook(gradients.append)  # type: ignore[no-untyped-call]
    found = PositionsInnermost()(features)
    assert torch.equal(found, features)
    assert found.is_contiguous()
    assert (found is features) == (not last)  # nothing is copied where nothing has to be
    (found.flatten(1) ** 2).sum().backward()
    (gradient,) = gradients
    assert gradient.is_contiguous(memory_format=order)
    assert torch.equal(gradient, 2 * features)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, MOST_CHANNELS + 1), (MOST_CHANNELS + 1, 3)])
def test_a_wide_convolution_turns_what_it_is_given_and_is_pytorchs(inputs: int, outputs: int) -> None:
    layer = Conv2d(inputs, outputs, 3)
    assert not is_narrow(layer)
    nn.init.normal_(layer.weight)
    x = torch.rand(2, inputs, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(last), nn.functional.conv2d(x, layer.weight, layer.bias))
    assert layer(last).is_contiguous()


def test_features_of_a_single_position_are_turned() -> None:
    """PyTorch calls them contiguous either way, and computes by their strides."""
    x = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    pooled = nn.functional.max_pool2d(x, 8)
    assert pooled.is_contiguous()
    assert pooled.stride(3) == 3
    assert turned(pooled).stride() == torch.rand(2, 3, 1, 1).stride()
    assert torch.equal(turned(pooled), pooled)


def test_a_gradient_of_a_gradient_and_functions_of_functions() -> None:
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y: turned(y).pow(3), x)
    found = torch.func.grad(lambda y: turned(y).pow(3).sum())(x.detach())
    assert torch.allclose(found, 3 * x.detach() ** 2)


def test_who_writes_the_network_down_finds_a_convolution() -> None:
    """Also where the example has channels innermost."""
    layer = nn.Sequential(Conv2d(3, MOST_CHANNELS + 1, 3, bias=False))
    x = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    graph = torch.export.export(layer, (x,)).graph
    assert [str(node.target) for node in graph.nodes if node.op == "call_function"] == ["aten.conv2d.default"]


@pytest.mark.parametrize(("channels", "unsafe"), [(1, True), (3, True), (15, True), (16, False)])
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
@pytest.mark.parametrize("sides", [(7, 8), (8, 7), (8, 8)])
def test_a_convolution_of_single_positions_picks_what_it_reads(
    channels: int, unsafe: bool, stride: int | tuple[int, int], sides: tuple[int, int]
) -> None:
    layer = Conv2d(channels, 6, 1, stride=stride).double()
    assert is_unsafe(layer) is unsafe
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.rand(2, channels, *sides, dtype=torch.float64)
    last = x.to(memory_format=torch.channels_last)  # `contiguous` leaves a single channel as it is
    found, usual = [], nn.functional.conv2d(x, layer.weight, layer.bias, stride)
    for given in (x, last):
        layer.zero_grad()
        features, gradients = given.clone().requires_grad_() * 1, list[Tensor]()
        features.register_hook(gradients.append)  # type: ignore[no-untyped-call]
        out = layer(features)
        torch.testing.assert_close(out, usual)
        (out**2).sum().backward()
        assert layer.weight.grad is not None
        found.append((layer.weight.grad.clone(), gradients[0]))
    torch.testing.assert_close(*found)
    if channels > 1:
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    read = picked(last, layer.stride)
    assert read is not None
    assert torch.equal(read, x[:, :, :: layer.stride[0], :: layer.stride[1]])
    assert picked(x, layer.stride) is None


@pytest.mark.parametrize(
    ("other", "skips"),
    [
        ({"stride": 1}, False),
        ({"kernel_size": 3}, False),
        ({"padding": 1}, False),
        ({"groups": 2}, False),
        ({"padding": "valid"}, True),
        ({"stride": (1, 2)}, True),
    ],
)
def test_which_convolutions_skip_positions(other: dict[str, Any], skips: bool) -> None:
    assert skips_positions(nn.Conv2d(4, 4, **{"kernel_size": 1, "stride": 2} | other)) is skips


def test_who_writes_the_network_down_finds_the_stride() -> None:
    layer = nn.Sequential(Conv2d(3, 4, 1, stride=2, bias=False))
    x = torch.rand(2, 3, 4, 6).contiguous(memory_format=torch.channels_last)
    graph = torch.export.export(layer, (x,)).graph
    (found,) = [node for node in graph.nodes if node.op == "call_function"]
    assert str(found.target) == "aten.conv2d.default"
    assert found.args[3] == [2, 2]
