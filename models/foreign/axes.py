"""The axes of a traced module: which atoms are cut, what they are called, and what every tensor runs along."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from torch import fx

from models.algebra.axes import Along, Axis, Beside, Dim, Kind, axes_along
from models.foreign.atoms import Atom, Extent, atoms_of, factors_of, freeze, size_of
from models.foreign.groups import find_groups
from models.foreign.stages import Stages, find_stages
from models.foreign.trace import Traced, operation

CLASSES = "classes"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What can be cut of a module.

    Attributes:
        traced: what is known of it.
        axes: by name, with the classes.
        atoms: atom → name of its axis.
        dims: what the dimensions of every tensor run along.
        stages: where it can be cut in depth.
    """

    traced: Traced
    axes: Mapping[str, Axis]
    atoms: Mapping[Atom, str]
    dims: Mapping[str, tuple[Dim, ...]]
    stages: Stages

    def along(self, dim: Extent) -> Dim:
        """What a dimension of the graph runs along."""
        return _dim(dim, self.atoms)

    @cached_property
    def heads(self) -> frozenset[str]:
        """The tensors that count classes."""
        classes = {name for name, axis in self.axes.items() if axis.kind is Kind.CLASS}
        return frozenset(name for name, dims in self.dims.items() if axes_along(dims) & classes)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of names, shapes and dimensions: equal where two processes have found the same network."""
        tensors = [
            [name, [size_of(dim) for dim in held.dims], list(map(repr, self.dims[name])), held.parameter, held.norm]
            for name, held in self.traced.tensors.items()
        ]
        axes = [[axis.name, axis.size, axis.kind.value, axis.group] for axis in self.axes.values()]
        described = json.dumps([tensors, axes, self.stages.described()])
        return sha256(described.encode()).hexdigest()[:16]

    @cached_property
    def whole(self) -> dict[str, list[str]]:
        """Why something is not cut → the tensors that have a dimension which is not for that reason, in their order."""
        reasons: dict[str, dict[str, None]] = {}
        for name, held in self.traced.tensors.items():
            for dim in held.dims:
                for atom in atoms_of(dim):
                    if not atom.free:
                        reasons.setdefault(atom.why, {})[name] = None
        return {why: list(names) for why, names in reasons.items()}


def find_axes(traced: Traced, named: Sequence[str] = ()) -> Found:
    """Choose what is cut: of a product the outermost factor, so that heads and groups stay whole.

    Args:
        traced: a module.
        named: modules after which it can end; none: they are found.

    Raises:
        NoStage: one of these is none after which it can end.
    """
    tensors = {name: held.dims for name, held in traced.tensors.items()}
    extents = [dim for dims in tensors.values() for dim in dims]
    changed = True
    while changed:  # a choice in one product changes others
        changed = False
        for dim in extents:
            changed |= _choose(dim)
    groups = find_groups(traced)
    names: dict[Atom, str] = {}
    axes: dict[str, Axis] = {}
    ends = factors_of(traced.classes)
    if len(ends) == 1 and not ends[0].parts:
        if ends[0] not in _rows_of_embeddings(traced):  # such a head is the embedding, and stays with its tokens
            names[ends[0]] = CLASSES
        axes[CLASSES] = Axis(CLASSES, ends[0].size, Kind.CLASS)
    for layers in (True, False):  # an axis is called as the layer that makes it, else as what else runs along it
        for tensor, dims in tensors.items():
            makes = len([dim for dim in dims if dim]) > 1
            for place, dim in enumerate(dims[:1] if layers else dims):
                for atom in atoms_of(dim) if makes or not layers else ():
                    if atom.free and atom not in names:
                        name = names[atom] = _name(tensor, place, axes)
                        axes[name] = Axis(name, atom.size, group=groups[atom])
    return Found(
        traced=traced,
        axes=axes,
        atoms=names,
        dims={name: tuple(_dim(dim, names) for dim in dims) for name, dims in tensors.items()},
        stages=find_stages(traced, names, named),
    )


def _rows_of_embeddings(traced: Traced) -> set[Atom]:
    nodes = (node for graph in traced.graphs.values() for node in graph.nodes if operation(node) == "embedding")
    tables = {str(table.target) for node in nodes if isinstance(table := node.args[0], fx.Node)}
    return {atom for name in tables & set(traced.tensors) for atom in factors_of(traced.tensors[name].dims[0])}


def _choose(dim: Extent) -> bool:
    """Freeze all but one factor of every product; whether anything was."""
    changed = False
    for product in _products(dim):
        free = [atom for atom in product if any(one.free for one in atoms_of([atom]))]
        for atom in free[1:]:
            freeze([atom], "a factor of a product that is cut along another one")
            changed = True
    return changed


def _products(dim: Extent) -> Iterator[Extent]:
    factors = factors_of(dim)
    yield factors
    for atom in factors:
        for part in atom.parts:
            yield from _products(part)


def _dim(dim: Extent, names: Mapping[Atom, str]) -> Dim:
    """A dimension as the algebra says it."""
    factors = factors_of(dim)
    place = next((i for i, atom in enumerate(factors) if any(one in names for one in atoms_of([atom]))), None)
    if place is None:
        return None
    atom, outer, inner = factors[place], size_of(factors[:place]), size_of(factors[place + 1 :])
    if not atom.parts:
        return Along(names[atom], outer, inner)
    stretches: list[Along | int] = []
    for part in atom.parts:
        along = _dim(part, names)
        stretches += along.stretches if isinstance(along, Beside) else [size_of(part) if along is None else along]
    scaled = [
        one * inner if isinstance(one, int) else Along(one.axis, one.outer, one.inner * inner) for one in stretches
    ]
    first = scaled[0]
    if isinstance(first, Along) and all(one == first for one in scaled):
        return Along(first.axis, first.outer * len(scaled) * outer, first.inner)
    return Beside(tuple(scaled * outer))


def _name(tensor: str, place: int, taken: Mapping[str, Axis]) -> str:
    base = tensor.rpartition(".")[0] or tensor
    name = base if place == 0 else f"{base}.in"
    number = 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name
