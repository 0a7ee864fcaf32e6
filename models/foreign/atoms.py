"""Dimensions as products of atoms, and what is learnt about them: which are the same, which are parts of others.

The *extent* of a dimension is its atoms from the outer to the inner one: heads x coordinates, channels x height x
width; a dimension of one coordinate has none. An atom starts as a bare size. A view may show that it is a product, a
split or a concatenation that it consists of consecutive parts, an operation that it is the same as another one. What is
frozen is never cut; it remembers why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import prod

Extent = tuple["Atom", ...]


class Atom:
    """A factor of dimensions; atoms that are the same have one root.

    Attributes:
        size: number of coordinates.
        why: why it is not cut; "" while it may be.
        multiplied: whether sums of products run over it, which is what makes its coordinates units.
        factors: its factors, if it is a product.
        parts: what stands side by side in it, if it is a concatenation.
    """

    __slots__ = ("_same", "factors", "multiplied", "parts", "size", "why")

    def __init__(self, size: int, why: str = "") -> None:
        self.size, self.why, self.multiplied = size, why, False
        self.factors: Extent = ()
        self.parts: tuple[Extent, ...] = ()
        self._same: Atom | None = None

    @property
    def root(self) -> Atom:
        """The atom that stands for all that are the same."""
        atom = self
        while atom._same is not None:
            atom = atom._same
        return atom

    def become(self, other: Atom) -> None:
        """Be the same as another root from now on."""
        self._same = other

    @property
    def free(self) -> bool:
        """Whether it may be cut; asked of a root without factors and parts."""
        return not self.why


def extent(size: int, why: str = "") -> Extent:
    """A dimension of which nothing is known yet."""
    return () if size == 1 else (Atom(size, why),)


def size_of(dim: Sequence[Atom]) -> int:
    """Coordinates of a dimension."""
    return prod(atom.size for atom in dim)


def factors_of(dim: Sequence[Atom]) -> Extent:
    """Roots of a dimension from the outer to the inner one, none of them a product."""
    found: list[Atom] = []
    for atom in dim:
        root = atom.root
        found += factors_of(root.factors) if root.factors else [root]
    return tuple(found)


def atoms_of(dim: Sequence[Atom]) -> Iterator[Atom]:
    """Every root in a dimension that is neither a product nor a concatenation."""
    for atom in factors_of(dim):
        if atom.parts:
            for part in atom.parts:
                yield from atoms_of(part)
        else:
            yield atom


def freeze(dim: Sequence[Atom], why: str) -> None:
    """Let nobody cut a dimension; the first reason is kept."""
    for atom in factors_of(dim):
        for part in atom.parts:
            freeze(part, why)
        atom.why = atom.why or why


def multiply(dim: Sequence[Atom]) -> None:
    """Note that sums of products run over a dimension."""
    for atom in factors_of(dim):
        atom.multiplied = True
        for part in atom.parts:
            multiply(part)


def unify(one: Sequence[Atom], other: Sequence[Atom]) -> None:
    """Learn that two dimensions are the same.

    Raises:
        ValueError: their sizes differ.
    """
    if size_of(one) != size_of(other):
        raise ValueError(f"dimensions of {size_of(one)} and {size_of(other)} coordinates cannot be the same")
    left, right = list(factors_of(one)), list(factors_of(other))
    while left and right:
        a, b = left[0], right[0]
        if a.size == b.size:
            _join(a, b)
            left, right = left[1:], right[1:]
        elif max(a.size, b.size) % min(a.size, b.size):
            for dim in (one, other):
                freeze(dim, "two views of it do not nest")
            return
        else:
            _factor(max(a, b, key=lambda atom: atom.size), min(a.size, b.size))
        left, right = list(factors_of(left)), list(factors_of(right))


def cut(dim: Sequence[Atom], sizes: Sequence[int]) -> list[Extent]:
    """Take a dimension apart into consecutive pieces of these sizes."""
    whole = factors_of(dim)
    if len(whole) == 1 and not whole[0].why:
        atom = whole[0]
        if not atom.parts:
            atom.parts = tuple(_like(atom, size) for size in sizes)
            return list(atom.parts)
        return _cut_parts(atom, sizes)
    count = len(sizes)
    if len(whole) > 1 and len(set(sizes)) == 1 and count > 1 and whole[0].size % count == 0 and not whole[0].parts:
        if whole[0].size > count:
            _factor(whole[0], count)
        head, *rest = factors_of(whole)
        freeze([head], "it counts the pieces that a dimension is taken apart into")
        return [tuple(rest)] * count
    freeze(whole, "it is taken apart in the middle of a product")
    return [extent(size, whole[0].why if whole else "one coordinate") for size in sizes]


def joined(pieces: Sequence[Extent]) -> Extent:
    """The dimension in which these stand side by side."""
    pieces = [piece for piece in pieces if size_of(piece)]
    if len(pieces) == 1:
        return pieces[0]
    atom = Atom(sum(map(size_of, pieces)))
    atom.parts = tuple(pieces)
    return (atom,)


def regrouped(dims: Sequence[Extent], shape: Sequence[int]) -> list[Extent]:
    """Dimensions after a view: the same atoms in other groups.

    Raises:
        ValueError: the view does not nest.
    """
    atoms, out = list(factors_of([atom for dim in dims for atom in dim])), []
    for wanted in shape:
        group: list[Atom] = []
        while (missing := wanted // size_of(group)) > 1:
            atom = atoms[0]
            if atom.size > missing and atom.size % missing == 0:
                _factor(atom, missing)
                atoms = list(factors_of(atoms))
            elif missing % atom.size == 0:
                group.append(atoms.pop(0))
            else:
                raise ValueError("a view that does not nest")
        out.append(tuple(group))
    return out


def _like(atom: Atom, size: int) -> Extent:
    made = extent(size, atom.why)
    for one in made:
        one.multiplied = atom.multiplied
    return made


def _factor(atom: Atom, outer: int) -> None:
    """Make an atom the product of `outer` and what is left."""
    inner = atom.size // outer
    if atom.parts:
        parts, atom.parts = atom.parts, ()
        if len(parts) == outer and all(size_of(part) == inner for part in parts):
            for part in parts[1:]:
                unify(parts[0], part)
            atom.factors = (Atom(outer, "it counts equal parts that stand side by side"), *parts[0])
            return
        why = "unlike parts stand side by side in it, and it is viewed otherwise"
        for part in parts:
            freeze(part, why)
        atom.why = atom.why or why
    atom.factors = (*_like(atom, outer), *_like(atom, inner))


def _join(one: Atom, other: Atom) -> None:
    if one is other:
        return
    if one.parts and other.parts:
        _join_parts(one, other)
    elif other.parts:
        one, other = other, one
    why = one.why or other.why
    other.become(one)
    if other.multiplied or one.multiplied:
        multiply([one])
    if why:
        freeze([one], why)


def _join_parts(one: Atom, other: Atom) -> None:
    ends = {end for atom in (one, other) for end in accumulate(map(size_of, atom.parts))}
    lengths = [end - start for start, end in pairwise(sorted({0, *ends}))]
    for a, b in zip(_cut_parts(one, lengths), _cut_parts(other, lengths), strict=True):
        unify(a, b)


def _cut_parts(atom: Atom, sizes: Sequence[int]) -> list[Extent]:
    """Take a concatenation apart, where need be in the middle of a part; remembers the finer parts."""
    rest, finer, pieces = list(atom.parts), list[Extent](), list[Extent]()
    for size in sizes:
        piece: list[Extent] = []
        while size:
            part = rest.pop(0)
            if (length := size_of(part)) > size:
                part, after = cut(part, [size, length - size])
                rest.insert(0, after)
            piece.append(part)
            size -= size_of(part)
        finer += piece
        pieces.append(joined(piece))
    atom.parts = tuple(finer)
    return pieces
