"""Inputs of every kind that a network takes: images, signals and texts."""

from __future__ import annotations

import torch
from torch import Tensor

from models import NetworkSpec, torch_generator
from models.networks.registry import NETWORKS

_SHAPES: dict[int, tuple[int, ...]] = {3: (3, 16, 16), 2: (3, 16), 1: (12,)}


def kind_of(name: str) -> dict[str, tuple[int, ...] | int]:
    """Input shape and vocabulary of something that a registered network takes."""
    dimensions = NETWORKS[name].dimensions[0]
    return {"input_shape": _SHAPES[dimensions], "vocabulary": 11 if dimensions == 1 else 0}


def drawn(spec: NetworkSpec, count: int) -> Tensor:
    """Inputs [count, ...], always the same: normal, or tokens, the last third of the first text being padding."""
    draws = torch_generator(0, 0, 0, "x")
    if not spec.vocabulary:
        return torch.randn(count, *spec.input_shape, generator=draws)
    tokens = torch.randint(1, spec.vocabulary, (count, *spec.input_shape), generator=draws)
    tokens[0, -(spec.input_shape[0] // 3) :] = 0
    return tokens
