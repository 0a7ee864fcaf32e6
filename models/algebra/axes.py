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
from typing import TypeVar

from torch import Tensor, nn

from models.algebra.pairs import Pair
from models.algebra.rates import Rate

M = TypeVar("M", bound=nn.Module)

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


_DECLARATION = "_flotilla_declaration"


@dataclass(slots=True, kw_only=True)
class _Declaration:
    dims: dict[str, tuple[Dim, ...]]
    rates: dict[str, Rate]
    stage: int | None
    exit: int | None
    block: int | None = None
    role: str | None = None
    places: dict[str, Place] = field(default_factory=dict)


def along(axis: str | Dim) -> Dim:
    """Read a plain axis name as a dimension that runs along it once."""
    return Along(axis) if isinstance(axis, str) else axis


def declare(
    module: M,
    dims: Mapping[str, tuple[str | Dim, ...]] | None = None,
    *,
    rates: Mapping[str, Rate] | None = None,
    stage: int | None = None,
    exit_of: int | None = None,
    block: int | None = None,
    role: str | None = None,
    places: Mapping[str, Place] | None = None,
) -> M:
    """Attach to a module what its own tensors run along, and which stage or exit everything below it belongs to.

    A second declaration of the same module adds to the first.

    Args:
        module: the module that owns the tensors.
        dims: local tensor name → one entry per dimension (axis name, `Along`, or None).
        rates: local tensor name → narrowest width that holds the tensor.
        stage: the stage that owns every tensor at and below this module.
        exit_of: the stage whose exit this module is, or `SHARED`.
        block: the residual block that this module is, if it can be left out.
        role: what the tensors at and below this module are for.
        places: local tensor name → where it stands, whatever is declared of everything at and below the module.

    Returns:
        The module itself, so that a declaration can stand where the layer is built.
    """
    declaration = vars(module).setdefault(_DECLARATION, _Declaration(dims={}, rates={}, stage=None, exit=None))
    declaration.dims |= {name: tuple(along(dim) for dim in entry) for name, entry in (dims or {}).items()}
    declaration.rates |= rates or {}
    declaration.places |= places or {}
    declaration.stage = declaration.stage if stage is None else stage
    declaration.exit = declaration.exit if exit_of is None else exit_of
    declaration.block = declaration.block if block is None else block
    declaration.role = declaration.role if role is None else role
    return module


def declared_dims(module: nn.Module) -> Mapping[str, tuple[Dim, ...]]:
    """What a module's own tensors were declared to run along."""
    declaration: _Declaration | None = vars(module).get(_DECLARATION)
    return {} if declaration is None else declaration.dims


def layout_of(network: nn.Module, axes: Mapping[str, Axis]) -> Layout:
    """Collect the declarations of a network built at full width.

    Raises:
        ValueError: a tensor without a declaration, of the wrong rank, with an unknown axis, of a size other than its
            axes say, or of an integer type (which cannot be averaged: register it as non-persistent).
    """
    return Layout(
        dict(axes), {name: _layout_of(network, name, tensor, axes) for name, tensor in network.state_dict().items()}
    )


def _layout_of(network: nn.Module, name: str, tensor: Tensor, axes: Mapping[str, Axis]) -> TensorLayout:
    path, _, leaf = name.rpartition(".")
    declaration: _Declaration | None = vars(network.get_submodule(path)).get(_DECLARATION)
    if declaration is None or leaf not in declaration.dims:
        raise ValueError(f"tensor {name!r} has no declared axes; declare them where the layer is built")
    if not tensor.is_floating_point():
        raise ValueError(f"tensor {name!r} is {tensor.dtype}; only floating-point tensors can be averaged")
    dims = declaration.dims[leaf]
    if len(dims) != tensor.ndim:
        raise ValueError(f"tensor {name!r} has {tensor.ndim} dimensions, its declaration {len(dims)}")
    for position, (dim, actual) in enumerate(zip(dims, tensor.shape, strict=True)):
        stretches = stretches_of(dim, actual)
        if undeclared := [one.axis for one in stretches if isinstance(one, Along) and one.axis not in axes]:
            raise ValueError(f"tensor {name!r} runs along the undeclared axis {undeclared[0]!r}")
        expected = sum(length_of(stretch, axes) for stretch in stretches)
        if actual != expected:
            raise ValueError(f"tensor {name!r} dimension {position} is {actual}, its axes say {expected}")
    above = _position(network, path)
    place = declaration.places.get(leaf, Place(stage=above.stage or 0, exit=above.exit or 0, block=above.block or 0))
    return TensorLayout(
        shape=tuple(tensor.shape),
        dims=dims,
        stage=place.stage,
        exit=place.exit,
        rate=declaration.rates.get(leaf, Fraction(0)),
        block=place.block,
        role=above.role or "",
        buffer=leaf not in network.get_submodule(path)._parameters,
    )


def _position(network: nn.Module, path: str) -> _Declaration:
    """What the modules on a path declare of everything below them; the nearest one has the last word."""
    found = _Declaration(dims={}, rates={}, stage=None, exit=None)
    parts = path.split(".") if path else []
    for end in range(len(parts) + 1):
        declaration = vars(network.get_submodule(".".join(parts[:end]))).get(_DECLARATION)
        if declaration is not None:
            found.stage = found.stage if declaration.stage is None else declaration.stage
            found.exit = found.exit if declaration.exit is None else declaration.exit
            found.block = found.block if declaration.block is None else declaration.block
            found.role = found.role if declaration.role is None else declaration.role
    return found
