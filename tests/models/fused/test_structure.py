"""What is covered, and what is left to autograd with a reason."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from torch import nn

from models.algebra.plans import Plan
from models.fused.structure import Convolution, MaxPool, Norm, NotCoveredError, Relu, Scale, layers_of
from models.networks.build import build_part
from models.networks.complete import completed
from models.networks.spec import NetworkSpec

CNN = completed(NetworkSpec("cnn", (1, 8, 8), 10, widths=(4, 8), scaler=True))


def test_a_cnn_is_rearranged() -> None:
    """No scaler, no bias before a norm, no ReLU before a pool."""
    layers = layers_of(build_part(CNN, Plan()))
    assert [type(layer).__name__ for layer in layers] == [
        "Convolution",
        "Norm",
        "MaxPool",
        "Convolution",
        "Norm",
        "Relu",
        "Mean",
        "Affine",
    ]
    assert [layer.bias for layer in layers if isinstance(layer, Convolution)] == [None, None]
    assert [layer.rectified for layer in layers if isinstance(layer, MaxPool)] == [True]


def test_the_scaler_goes_into_epsilon() -> None:
    layers = layers_of(build_part(CNN, Plan(Fraction(1, 2))))
    assert [layer.epsilon for layer in layers if isinstance(layer, Norm)] == [1e-5 / 4] * 2
    alone = layers_of(build_part(replace(CNN, norm="none"), Plan(Fraction(1, 2))))
    assert [layer.factor for layer in alone if isinstance(layer, Scale)] == [2.0] * 2
    assert all(layer.bias is not None for layer in alone if isinstance(layer, Convolution))


class _Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.GELU()), "GELU"),
        (nn.Sequential(_Own(2, 2)), "_Own"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), "convolution"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "BatchNorm1d"),
        (nn.ModuleList([nn.Linear(2, 2)]), "ModuleList"),
    ],
)
def test_others_are_left_to_autograd(network: nn.Module, why: str) -> None:
    with pytest.raises(NotCoveredError, match=why):
        layers_of(network)


def test_held_parameters_and_hooks_are_left_to_autograd() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert [type(layer) for layer in layers_of(network)][1] is Relu
    hook = network[1].register_forward_hook(lambda *_: None)
    with pytest.raises(NotCoveredError, match="hooks"):
        layers_of(network)
    hook.remove()
    next(network.parameters()).requires_grad_(False)
    with pytest.raises(NotCoveredError, match="not trained"):
        layers_of(network)
