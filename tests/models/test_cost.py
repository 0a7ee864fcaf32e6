"""What a part costs is what PyTorch's own counter says of it."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.algebra.plans import Plan
from models.cost import cost_of
from models.networks.build import build_part
from models.networks.complete import completed, examples
from models.networks.spec import NetworkSpec
from models.predictions import predictions

SPECS = [
    NetworkSpec("cnn", (1, 8, 8), 10, scaler=True),
    NetworkSpec("cnn-flat", (3, 12, 12), 10),
    NetworkSpec("cnn1d", (3, 16), 4, norm="group"),
    NetworkSpec("gru", (12,), 5, vocabulary=11),
    NetworkSpec("mlp", (7,), 3, widths=(16, 8)),
    NetworkSpec("resnet", (3, 16, 16), 10, widths=(8, 16), blocks=(1, 1), exits="bottleneck"),
    NetworkSpec("transformer", (12,), 5, vocabulary=11),
    NetworkSpec("vit", (3, 16, 16), 10),
]


@pytest.mark.parametrize("spec", [completed(spec) for spec in SPECS], ids=lambda spec: spec.name)
@pytest.mark.parametrize("every_exit", [False, True])
def test_multiplications_are_those_of_the_counter(spec: NetworkSpec, every_exit: bool) -> None:
    plan = Plan(Fraction(1, 2))
    with torch.device("meta"):
        network, two = build_part(spec, plan).train(), examples(spec, 2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        predictions(network, two) if every_exit else network(two)
    cost = cost_of(spec, plan, every_exit=every_exit)
    assert cost.macs == counter.get_total_flops() // 4 > 0
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())
