"""Logical axes: which dimension of which tensor shrinks together with which.

A network declares this where it builds its layers; nothing is ever inferred from a tensor's name. A *width axis* may be
cut, and so may a *rank axis*, which a pair of low-rank factors shares (`models.algebra.pairs`); a *class axis* lists
labels, a *token axis* a vocabulary; a *fixed axis* (channels, positions) never changes. A dimension runs along an axis,
possibly with an inner unit (a channel that was flattened into h·w inputs) or an outer one (every head of a layer).
Depth is declared likewise: the stage that owns a tensor and, for the tensors of an exit, the stage that it follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from fractions import Fraction
from functools import cached_property
from math import prod

from models.algebra.pairs import Pair
from models.algebra.rates import Rate

SHARED = -1  # an exit that every depth uses

Run = tuple[int, int]  # start, length
Runs = tuple[Run, ...]


class Kind(Enum):
    """What an axis counts, which decides who may cut it."""

    WIDTH = "width"
    CLASS = "class"
    TOKEN = "token"
    FIXED = "fixed"
    RANK = "rank"
    BASE = "base"

    @property
    def cut(self) -> bool:
        """Whether plans keep some of an axis' units, which may be any."""
        return self in (Kind.WIDTH, Kind.RANK)

    @property
    def shrinks(self) -> bool:
        """Whether parts have fewer units: of a base's widths always the first."""
        return self.cut or self is Kind.BASE


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis of `size` units at full width; tiers may have a rate of their own for its group ("" is none)."""

    name: str
    size: int
    kind: Kind = Kind.WIDTH
    _: KW_ONLY
    group: str = ""


@dataclass(frozen=True, slots=True)
class Along:
    """A dimension that runs along an axis; its coordinates are ordered (outer, axis, inner)."""

    axis: str
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True, slots=True)
class Beside:
    """A dimension in which several stretches stand one after the other: a concatenation.

    Attributes:
        stretches: each runs along an axis, or is a number of coordinates that nobody cuts.
    """

    stretches: tuple[Along | int, ...]


Dim = Along | Beside | None  # None: a dimension that nobody cuts, such as a kernel's height


def stretches_of(dim: Dim, size: int) -> tuple[Along | int, ...]:
    """What stands side by side in a dimension of this size: of most, one stretch."""
    if isinstance(dim, Beside):
        return dim.stretches
    return (size if dim is None else dim,)


def length_of(stretch: Along | int, axes: Mapping[str, Axis]) -> int:
    """Coordinates of a stretch at full width."""
    return stretch if isinstance(stretch, int) else stretch.outer * axes[stretch.axis].size * stretch.inner


def axes_along(dims: Iterable[Dim]) -> frozenset[str]:
    """The axes that dimensions run along."""
    stretches = (stretch for dim in dims for stretch in stretches_of(dim, 0))
    return frozenset(stretch.axis for stretch in stretches if isinstance(stretch, Along))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor stands in depth; see `TensorLayout`."""

    stage: int = 0
    exit: int = 0
    block: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLayout:
    """Where one tensor of the full network stands.

    Attributes:
        shape: its shape at full width.
        dims: what each dimension runs along.
        stage: the stage that owns it, 1-based; 0 is held at every depth.
        exit: the stage whose exit it belongs to; 0 is no exit, `SHARED` an exit that every depth uses.
        block: the residual block that it belongs to, if that block can be left out (1-based); 0 if not.
        role: what the tensor is for, where a method asks: "norm", "step" (the step size of a residual block), or "".
        buffer: whether it is no parameter but a statistic.
        rate: the narrowest width that holds it; for statistics that exist once per width. Such a tensor is kept whole.
    """

    shape: tuple[int, ...]
    dims: tuple[Dim, ...]
    stage: int = 0
    exit: int = 0
    rate: Rate = Fraction(0)
    block: int = 0
    role: str = ""
    buffer: bool = False

    @property
    def axes(self) -> frozenset[str]:
        """The axes that its dimensions run along."""
        return axes_along(self.dims)


@dataclass(frozen=True)
class Layout:
    """The declaration of a whole network.

    Attributes:
        axes: by name.
        tensors: of its state, in state order: what is trained, sent and averaged.
        frozen: what every device holds beside and nobody trains, its base.
        beside: rank axis → the weight that its pair's product is added to, where that is part of the state.
    """

    axes: Mapping[str, Axis]
    tensors: Mapping[str, TensorLayout]
    frozen: Mapping[str, TensorLayout] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Groups of axes that are cut for which tiers may have rates of their own, by name."""
        return tuple(sorted({axis.group for axis in self.axes.values() if axis.kind.shrinks and axis.group}))

    @cached_property
    def depth(self) -> int:
        """Number of stages (0 when the network declares none)."""
        return max((tensor.stage for tensor in self.tensors.values()), default=0)

    @cached_property
    def exits(self) -> frozenset[int]:
        """The stages that have an exit; the only depths at which the network can be cut."""
        found = frozenset(tensor.exit for tensor in self.tensors.values() if tensor.exit)
        return frozenset(range(1, self.depth + 1)) if SHARED in found else found

    @cached_property
    def blocks(self) -> frozenset[int]:
        """The residual blocks that can be left out."""
        return frozenset(tensor.block for tensor in self.tensors.values() if tensor.block)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of low-rank factors: for every rank axis the tensors that have it on one dimension."""
        a = {t.dims[0]: name for name, t in self.tensors.items() if len(t.dims) == 2 and t.dims[0] != t.dims[1]}
        b = {t.dims[1]: name for name, t in self.tensors.items() if len(t.dims) == 2 and t.dims[0] != t.dims[1]}
        ranks = [Along(name) for name, axis in self.axes.items() if axis.kind is Kind.RANK and Along(name) in a]
        return tuple(Pair(a[at], b[at], at.axis, weight=self.beside.get(at.axis, "")) for at in ranks if at in b)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the full state, by name, in state order."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @cached_property
    def parameters(self) -> int:
        """Number of coordinates of the full state."""
        return sum(prod(tensor.shape) for tensor in self.tensors.values())


def heads(layout: Layout) -> frozenset[str]:
    """The tensors that count classes, by name: what a network's last layers are, whatever they are called."""
    classes = {axis.name for axis in layout.axes.values() if axis.kind is Kind.CLASS}
    return frozenset(name for name, tensor in layout.tensors.items() if tensor.axes & classes)
