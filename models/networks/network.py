"""What is registered of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.algebra.axes import Axis
from models.foreign.axes import Found
from models.foreign.check import Proof
from models.networks.builder import Builder
from models.networks.spec import NetworkSpec
from models.norms.layers import CHANNEL_NORMS
from models.settings import Scalar, Setting

ROWS = 0  # dimensions of an input that is a row of a table: features, in no order


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
        initial: spec → its first state, where layers of the module do not say how they are drawn; see `initial_state`.
        prove: spec → its axes and their proof, where they were found and not declared.
        narrower: spec, number → the spec of a network whose layers have one of so many parts of the units, where a
            factory can be asked for it; None if it cannot.
        written_out: its options → the same without names of files of this machine, whose contents stand there; None
            where they name none. Whoever configures a run calls it; a device has what came out.
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
    initial: Callable[[NetworkSpec, torch.Generator], dict[str, Tensor]] | None = None
    prove: Callable[[NetworkSpec], tuple[Found, Proof]] | None = None
    narrower: Callable[[NetworkSpec, int], NetworkSpec | None] | None = None
    written_out: Callable[[Mapping[str, Scalar]], Mapping[str, Scalar]] | None = None
    OPTIONS: Mapping[str, Setting] = field(default_factory=dict)
