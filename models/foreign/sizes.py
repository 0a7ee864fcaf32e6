"""How long dimensions are in a part."""

from __future__ import annotations

from collections.abc import Mapping

from models.foreign.atoms import Atom, Extent, factors_of
from models.foreign.axes import Found


class Sizes:
    """Coordinates of dimensions in a part.

    Args:
        found: the axes.
        sizes: kept units by axis; those that are absent are full.
    """

    def __init__(self, found: Found, sizes: Mapping[str, int]) -> None:
        self._units = {atom: sizes[name] for atom, name in found.atoms.items() if name in sizes}

    def of(self, dim: Extent) -> int:
        """Coordinates of a dimension."""
        count = 1
        for atom in factors_of(dim):
            count *= sum(map(self.of, atom.parts)) if atom.parts else self._units.get(atom, atom.size)
        return count

    def are_cut(self, atom: Atom) -> bool:
        """Whether an axis is not whole."""
        return self._units.get(atom, atom.size) != atom.size
