"""Small transformers of texts and of images, with states that are not their first."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from math import prod, sqrt

import torch
from torch import Tensor

from models import (
    NetworkSpec,
    build,
    completed,
    initial_state,
    layout,
    torch_generator,
)
from models.networks.staged import Staged
from tests.models.parts import loaded

TEXT = NetworkSpec("transformer", (9,), 7, widths=(24, 10), blocks=(3,), vocabulary=11, heads=4)

SPECS = {
    "text": TEXT,
    "whole": replace(TEXT, whole_heads=True),
    "pooler": replace(TEXT, pooler=True),
    "tied": replace(TEXT, tied=True),
    "tied-whole-pooler": replace(TEXT, tied=True, pooler=True, whole_heads=True),
    "vit": NetworkSpec("vit", (3, 9, 8), 7, widths=(24, 10), blocks=(3,), heads=4),
}

RATES = tuple(Fraction(text) for text in ("1", "3/4", "1/2", "1/3", "1/6"))

QUERIES_KEYS_VALUES = [f"stages.{i}.attention.queries_keys_values" for i in range(3)]


@lru_cache
def spec_named(name: str, **fields: Hashable) -> NetworkSpec:
    return completed(replace(SPECS[name], **fields))  # type: ignore[arg-type]


def state_for(spec: NetworkSpec, seed: int = 0) -> dict[str, Tensor]:
    """Normal weights of a usual size, and queries and keys so large that attention is far from uniform."""
    draws = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(tensor.shape, generator=draws) / sqrt(max(prod(tensor.shape[1:]), 9))
        for name, tensor in layout(spec).tensors.items()
    }
    for path in QUERIES_KEYS_VALUES[: layout(spec).depth]:
        state[f"{path}.weight"][: 2 * spec.widths[0]] *= 3.0
    return state


def first_state(spec: NetworkSpec) -> dict[str, Tensor]:
    return initial_state(spec, torch_generator(3, 0, "server", "initial"))


def staged_network(spec: NetworkSpec, state: dict[str, Tensor]) -> Staged:
    network = loaded(build(spec), state)
    assert isinstance(network, Staged)
    return network


def head_widths(spec: NetworkSpec) -> tuple[int, int]:
    return spec.widths[0] // spec.heads, spec.heads
