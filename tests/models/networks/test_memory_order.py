"""Channels innermost, positions innermost: the same numbers, and gradients in the order of what they belong to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks.builder import Conv2d
from models.networks.memory_order import MOST_CHANNELS, PositionsInnermost, is_narrow, turned


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
