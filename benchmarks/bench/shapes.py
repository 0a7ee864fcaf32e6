"""The networks and devices that the benchmarks are about."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.algebra.plans import Plan
from models.algebra.submodel import Submodel
from models.networks.build import initial_state, submodel
from models.networks.complete import completed
from models.networks.spec import NetworkSpec
from models.randomness import torch_generator
from strategies.tiers.tier import HALVING

# ResNet-18 shape for CIFAR-10: 11,172,170 parameters.
RESNET_18 = completed(NetworkSpec("resnet", (3, 32, 32), 10, blocks=(2, 2, 2, 2)))
# The same in miniature, for the smoke test.
TINY = completed(NetworkSpec("resnet", (1, 8, 8), 10, widths=(16, 32), blocks=(1, 1)))


@dataclass(frozen=True)
class Fleet:
    """A state, the parts that clients hold, and a difference from each.

    Attributes:
        state: the global state.
        parts: what each client holds; clients of one tier have the same object.
        differences: a flat vector per client.
    """

    state: dict[str, Tensor]
    parts: list[Submodel]
    differences: list[Tensor]


def fleet(spec: NetworkSpec, clients: int, shift: int = 0) -> Fleet:
    """Clients in five tiers, equal shares, windows starting at `shift`."""
    draws = torch_generator(1, 0, "server", "benchmark")
    state = initial_state(spec, draws)
    parts = [submodel(spec, Plan(HALVING[i % len(HALVING)].rate, shift=shift)) for i in range(clients)]
    return Fleet(state, parts, [torch.randn(part.numel, generator=draws) for part in parts])
