"""Stages of parts that differ in depth: where their tensors stand in the state, and which have the same shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from models.algebra.plans import Plan
from models.networks.build import layout, submodel
from models.networks.spec import NetworkSpec


def stage_sources(network: NetworkSpec, size: Plan, stage: int) -> list[str]:
    """Where the tensors of a stage stand in the state, for one size, in the network's order.

    Args:
        network: completed; its sizes may have stages of their own (`models.variants.per_size_parameters`).
        size: a part of it.
        stage: 1-based.
    """
    alone = layout(replace(network, private=(), variants=())).tensors
    return [block.source for name, block in submodel(network, size).items() if alone[name].stage == stage]


def same_shapes(network: NetworkSpec, names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether tensors of the state have the shapes of others, one by one."""
    tensors = layout(network).tensors
    return [tensors[name].shape for name in names] == [tensors[name].shape for name in others]
