"""The networks that the `model` setting can name: each file of a network adds its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from models.algebra.axes import Axis
from models.networks.builder import Builder
from models.networks.spec import NetworkSpec
from models.norms.layers import CHANNEL_NORMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A registered network.

    Attributes:
        axes: spec → its axes at full width.
        build: builder → the module.
        widths: default units per layer or stage.
        blocks: default blocks per stage; () for networks without blocks.
        dimensions: of one input: 3 for images, 2 for signals, 1 for texts; a network may take several.
        smallest: smallest side of an input that it can take (height and width, or time).
        fixed_widths: whether there are as many widths, and as many entries of blocks, as by default, always.
        spatial: whether features are images after every stage, so that bottlenecks can follow them.
        norms: which of `models.norms.layers.NORMS` it can use; the first is its usual one.
    """

    axes: Callable[[NetworkSpec], dict[str, Axis]]
    build: Callable[[Builder], nn.Module]
    widths: tuple[int, ...]
    blocks: tuple[int, ...] = ()
    dimensions: tuple[int, ...] = (3,)
    smallest: int = 1
    fixed_widths: bool = False
    norms: tuple[str, ...] = CHANNEL_NORMS
    spatial: bool = False


NETWORKS: dict[str, Network] = {}


def with_exits(spec: NetworkSpec, wanted: str) -> NetworkSpec:
    """Give a network exits after every stage, plain ones where bottlenecks cannot be."""
    spatial = spec.name in NETWORKS and NETWORKS[spec.name].spatial
    return replace(spec, exits=wanted if spatial or wanted != "bottleneck" else "plain")
