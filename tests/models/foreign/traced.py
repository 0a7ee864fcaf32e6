"""The modules of `nets`, exported once per process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, fx, nn

from models.foreign.axes import Found, find_axes
from models.foreign.trace import exported, follow
from tests.models.foreign.nets import Adapted, Attention, Edge, Joined, Layers, OneHead, Residual, Steps

NETS: dict[str, Callable[[], nn.Module]] = {
    "edge": Edge,
    "attention": lambda: Attention(10),
    "joined": Joined,
    "steps": Steps,
    "head": OneHead,
    "residual": Residual,
    "adapted": Adapted,
    "layers": Layers,
}


def example(net: str) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    if net == "steps":
        return torch.randint(0, 20, (3, 4), generator=draws)
    return torch.randn(3, 1, 8, 8, generator=draws)


@cache
def exported_once(net: str) -> tuple[nn.Module, dict[bool, fx.GraphModule]]:
    module = NETS[net]()
    return module, {training: exported(module, example(net), training=training) for training in (True, False)}


def found_in(net: str) -> Found:
    return find_axes(follow(*exported_once(net)))
