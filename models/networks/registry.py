"""The networks that the `model` setting can name: each file of a network adds its own, others are found elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import nn

from models.algebra.axes import Axis
from models.algebra.plans import Plan
from models.networks.builder import Builder, ends
from models.networks.spec import NetworkSpec
from models.norms.layers import CHANNEL_NORMS
from models.registry import Registry
from models.settings import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A registered network.

    Attributes:
        axes: spec → its axes at full width.
        build: builder → the module.
        widths: default units per layer or stage; () where the network has its own and nobody sets them.
        blocks: default blocks per stage; () for networks without blocks.
        dimensions: of one input: 3 for images, 2 for signals, 1 for texts, `ROWS` for rows of
            tables; a network may take several.
        smallest: smallest side of an input that it can take (height and width, or time).
        fixed_widths: whether there are as many widths, and as many entries of blocks, as by default, always.
        OPTIONS: what a network that is not built in can be told: name → `models.settings.Setting`. They are keys of the
            configuration that begin with its name.
        spatial: whether features are images after every stage, so that bottlenecks can follow them.
        norms: which of `models.norms.layers.NORMS` it can use; the first is its usual one.
    """

    axes: Callable[[NetworkSpec], dict[str, Axis]]
    build: Callable[[Builder], nn.Module]
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    dimensions: tuple[int, ...] = (3,)
    smallest: int = 1
    fixed_widths: bool = False
    norms: tuple[str, ...] = CHANNEL_NORMS
    spatial: bool = False
    OPTIONS: Mapping[str, Setting] = field(default_factory=dict)


def of_function(make: Callable[[Builder], nn.Module]) -> Network:
    """A network that is a plain function of a builder and declares its axes where it uses them (`Builder.axis`)."""

    def axes(spec: NetworkSpec) -> dict[str, Axis]:
        builder = Builder(spec, ends(spec), {}, Plan())
        with torch.device("meta"):
            make(builder)
        return builder.axes

    return Network(axes=axes, build=make, dimensions=(ROWS, 1, 2, 3), OPTIONS=getattr(make, "OPTIONS", {}))


def _network(found: object) -> Network | None:
    if isinstance(found, Network):
        return found
    if not callable(found):
        return None
    try:
        inspect.signature(found).bind(None)
    except (TypeError, ValueError):
        return None
    return of_function(cast(Callable[[Builder], nn.Module], found))


ROWS = 0  # dimensions of an input that is a row of a table: features, in no order

NETWORKS: Registry[Network] = Registry(
    "model",
    group="flotilla.networks",
    expected="a models.Network, or a function that takes a models.Builder and gives a module",
    check=_network,
)


def with_exits(spec: NetworkSpec, wanted: str) -> NetworkSpec:
    """Give a network exits after every stage, plain ones where bottlenecks cannot be."""
    spatial = spec.name in NETWORKS and NETWORKS[spec.name].spatial
    return replace(spec, exits=wanted if spatial or wanted != "bottleneck" else "plain")
