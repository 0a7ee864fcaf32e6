"""What is covered, and what is left to autograd with a reason."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from torch import nn

from models.algebra.plans import Plan
from models.fused.shapes import convolution_macs
from models.fused.structure import Affine, Convolution, MaxPool, Norm, NotCoveredError, Relu, Scale, layers_of
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


@pytest.mark.parametrize("layers", [(nn.ReLU(), nn.MaxPool2d(2)), (nn.MaxPool2d(2), nn.ReLU())])
def test_a_pool_rectifies_on_either_side(layers: tuple[nn.Module, nn.Module]) -> None:
    (found,) = layers_of(nn.Sequential(*layers))
    assert isinstance(found, MaxPool)
    assert found.rectified


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


def test_a_module_that_stands_there_twice_is_there_twice() -> None:
    """`nn.Sequential.children` has it once; a parameter that is used twice is left to autograd."""
    relu, linear = nn.ReLU(), nn.Linear(4, 4)
    kinds = [type(layer) for layer in layers_of(nn.Sequential(nn.Linear(2, 4), relu, nn.Linear(4, 4), relu))]
    assert kinds == [Affine, Relu, Affine, Relu]
    with pytest.raises(NotCoveredError, match="used twice"):
        layers_of(nn.Sequential(nn.Linear(2, 4), linear, nn.ReLU(), linear))


@pytest.mark.parametrize(
    ("network", "inputs", "why"),
    [
        (nn.Sequential(nn.Linear(5, 3)), (2, 5), "more than features"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), (1, 4, 4), "no linear layer"),
        (nn.Sequential(nn.Linear(5, 3), nn.ReLU()), (5,), ""),
    ],
)
def test_what_cannot_be_computed_for_these_inputs_is_not_covered(
    network: nn.Module, inputs: tuple[int, ...], why: str
) -> None:
    layers = layers_of(network)
    if why:
        with pytest.raises(NotCoveredError, match=why):
            convolution_macs(layers, inputs)
    else:
        assert convolution_macs(layers, inputs) == 0
