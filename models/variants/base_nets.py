"""Independent nets side by side (Split-Mix, ICLR 2022, §4): a device holds some of them, in the order of its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import gcd

import torch
from torch import Tensor, nn

from models.algebra.axes import Axis, Layout
from models.algebra.rates import read_share
from models.algebra.submodel import Block, Submodel
from models.errors import SettingError


class BaseNets(nn.Module):
    """x → mean of the nets' logits; `predictions` gives each net's own.

    Args:
        nets: what stands side by side.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.bases = nn.ModuleList(nets)

    def predictions(self, x: Tensor) -> list[Tensor]:
        """Logits (N, classes) of every net."""
        return [net(x) for net in self.bases]

    def forward(self, x: Tensor) -> Tensor:
        """Mean of the logits."""
        return torch.stack(self.predictions(x)).mean(0)


def independent(network: nn.Module) -> list[nn.Module]:
    """What learns without regard to anything beside it: each net of a mixture, or the network itself."""
    return list(network.bases) if isinstance(network, BaseNets) else [network]


def joined_layout(layout: Layout, count: int) -> Layout:
    """The declaration of `count` nets of one layout."""
    return Layout(
        layout.axes, {_name(i, name): tensor for i in range(count) for name, tensor in layout.tensors.items()}
    )


def of_nets(part: Submodel, bases: Sequence[int]) -> Submodel:
    """Hold the same part of some of the nets; locally they are numbered from 0."""
    blocks: dict[str, Block] = {}
    for local, base in enumerate(bases):
        for name, block in part.items():
            blocks[_name(local, name)] = Block(
                source=_name(base, block.source), shape=block.shape, runs=block.runs, mask=block.mask
            )
    return Submodel(blocks, part.sizes)


def joined_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state of nets side by side, from a state of each."""
    return {_name(i, name): tensor for i, state in enumerate(states) for name, tensor in state.items()}


def nets_of(atom: str) -> int:
    """Number of nets of a width.

    Raises:
        SettingError: not 1 divided by a whole number.
    """
    try:
        count = 1 / read_share(atom.strip())
    except (ValueError, ZeroDivisionError):
        count = Fraction(0)
    if count < 1 or count.denominator != 1:
        raise SettingError("atom", atom, '"auto", or 1 divided by a whole number, such as "1/8"')
    return int(count)


def widths_of(layout: Layout) -> list[Axis]:
    """The axes whose units nets divide among them."""
    return [axis for axis in layout.axes.values() if axis.kind.cut]


def divisors(layout: Layout) -> list[int]:
    """The numbers of nets that divide every width of a network, so that together they have all its units; ascending."""
    common = gcd(*(axis.size for axis in widths_of(layout)))
    return [count for count in range(1, common + 1) if common % count == 0]


def _name(base: int, name: str) -> str:
    return f"bases.{base}.{name}"
