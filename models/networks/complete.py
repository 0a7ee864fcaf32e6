"""Fills in what a spec leaves to its network, and refuses what no network can be."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from models.errors import SettingError
from models.networks.build import blank
from models.networks.network import ROWS
from models.networks.registry import NETWORKS
from models.networks.spec import EXITS, NetworkSpec
from models.variants.per_size_parameters import PRIVATE

SMALL = 16  # pixels a side


@lru_cache(maxsize=64)
def completed(spec: NetworkSpec) -> NetworkSpec:
    """Fill in a network's default widths, blocks and norm, and check the spec.

    Raises:
        SettingError: unknown network or norm, widths or blocks of the wrong length, too small an input.
    """
    network = NETWORKS[spec.name]
    usual_norm = spec.norm or network.norms[0]
    if usual_norm not in network.norms:
        raise SettingError("norm", spec.norm, (*network.norms[:-1], f"{network.norms[-1]} for {spec.name!r}"))
    sides = spec.input_shape[1:]
    dimensions = len(spec.input_shape)
    if dimensions == 1 and not spec.vocabulary:
        dimensions = ROWS
    if dimensions not in network.dimensions or bool(spec.vocabulary) != (dimensions == 1):
        kinds = {ROWS: "rows of tables", 1: "texts", 2: "signals", 3: "images"}
        taken = " and ".join(kinds[d] for d in network.dimensions)
        allowed = f"a network for {kinds.get(dimensions, spec.input_shape)}; {spec.name!r} takes {taken}"
        raise SettingError("model", spec.name, allowed)
    if spec.exits not in EXITS:
        raise SettingError("exits", spec.exits, EXITS)
    if unknown := set(spec.private) - set(PRIVATE):
        raise ValueError(f"private = {sorted(unknown)}: allowed is {PRIVATE}")
    small = dimensions == 3 and min(sides) < SMALL
    usual = tuple(width // 2 for width in network.widths) if small else network.widths
    widths, blocks = spec.widths or usual, spec.blocks or network.blocks
    if spec.widths and not network.widths:
        raise SettingError("widths", spec.widths, f'"" for {spec.name!r}, which has widths of its own')
    if min(widths, default=1) < 1 or (network.fixed_widths and len(widths) != len(network.widths)):
        raise SettingError("widths", spec.widths, f"{len(network.widths)} positive whole numbers for {spec.name!r}")
    stages = len(network.blocks) if network.fixed_widths else len(widths)
    if spec.blocks and (not network.blocks or len(blocks) != stages or min(blocks) < 1):
        allowed = f"{stages} positive whole numbers, and only for a residual network"
        raise SettingError("blocks", spec.blocks, allowed)
    if blocks and len(blocks) != stages:
        raise SettingError("widths", spec.widths, f"as many as there are stages ({len(blocks)})")
    if spec.ends and network.prove is None:
        raise SettingError("blocks", ", ".join(spec.ends), "whole numbers; only of an ordinary module they are modules")
    if sides and min(sides) < network.smallest:
        allowed = f"a network for {sides} inputs; {spec.name!r} needs {network.smallest}"
        raise SettingError("model", spec.name, allowed)
    full = replace(spec, widths=widths, blocks=blocks, norm=usual_norm)
    try:
        # On real zeros: the meta device would import torch._dynamo and sympy, which takes seconds.
        with torch.no_grad():
            blank(full).train()(examples(full, 2))
    except RuntimeError as error:
        allowed = f"a network whose layers fit inputs of {spec.input_shape} ({error})"
        raise SettingError("widths", spec.widths, allowed) from None
    return full if network.prove is None else replace(full, fingerprint=network.prove(full)[0].fingerprint)


def examples(spec: NetworkSpec, count: int) -> Tensor:
    """Make inputs of the right shape and type, all zero, on the default device."""
    return torch.zeros(count, *spec.input_shape, dtype=torch.int64 if spec.vocabulary else torch.float32)
