"""What modules declare of their own tensors, and the layout of a network that is read from it.

A declaration stands where a layer is built; `layout_of` collects those of a network at full width, and refuses a tensor
that has none or does not fit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeVar

from torch import Tensor, nn

from models.algebra.axes import Along, Axis, Dim, Layout, Place, TensorLayout, length_of, stretches_of
from models.algebra.rates import Rate

M = TypeVar("M", bound=nn.Module)

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
