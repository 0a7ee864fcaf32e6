"""What a part costs is what PyTorch's own counter says of it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.adapters.adapter import Adapter
from models.algebra.plans import Plan
from models.cost import cost_of, training_bytes
from models.networks.build import build_part, layout
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


def test_frozen_weights_count_once_and_trained_ones_more() -> None:
    """Of a vision transformer with a trained head nothing is kept before the head."""
    network = NetworkSpec("vit", (1, 8, 8), 3, widths=(32, 64), blocks=(2,), heads=2)
    alone, head, pairs = (
        completed(replace(network, adapter=adapter)) for adapter in (None, Adapter(rank=0), Adapter(rank=4))
    )
    frozen = sum(prod(tensor.shape) for tensor in layout(head).frozen.values())
    kept = training_bytes(head, Plan(), 2) - 4 * (frozen + 5 * layout(head).parameters)
    assert 0 < kept < 4 * 2 * (2 * 2 * 32)  # what the head reads, and as much again
    assert training_bytes(head, Plan(), 2) < training_bytes(pairs, Plan(), 2) < training_bytes(alone, Plan(), 2)
    assert cost_of(pairs, Plan(Fraction(1, 4))).macs < cost_of(pairs, Plan()).macs
    assert cost_of(alone, Plan()).macs == cost_of(head, Plan()).macs


@pytest.mark.parametrize("spec", [completed(spec) for spec in SPECS], ids=lambda spec: spec.name)
@pytest.mark.parametrize("batch", [1, 2, 16])
def test_memory_is_reckoned_as_it_is_counted(spec: NetworkSpec, batch: int) -> None:
    plan = Plan(Fraction(1, 2))
    reckoned, counted = training_bytes(spec, plan, batch, reckoned=True), training_bytes(spec, plan, batch)
    if spec.name == "gru":  # its kernel, whose own memory is on no meta device
        assert 0.5 < reckoned / counted < 2
    else:
        assert reckoned == counted


def test_a_stage_on_frozen_ones_needs_a_fraction_of_the_memory() -> None:
    """Of ProFL's ResNet on pictures of 32 pixels, 128 at a time, at most half at every step."""
    network = NetworkSpec("resnet", (3, 32, 32), 10, norm="group")
    full = training_bytes(completed(network), Plan(), 128)
    stages = completed(replace(network, exits="plain"))
    for stage in sorted(layout(stages).exits):
        plan = Plan(depth=stage, own_exit=True, frozen=stage - 1)
        assert training_bytes(stages, plan, 128) < full / 2
