"""Where one block of a submodel lands in the buffers of an average: boxes (slices), or index vectors for draws."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from math import prod

import torch
from torch import Tensor

from models.algebra.axes import Along, Kind, Layout, Runs, TensorLayout
from models.algebra.submodel import Block, coordinates

# Beyond this many boxes a block is added through index vectors: a box costs microseconds whatever its size.
MOST_BOXES = 16
# Zero is -0.0 here because x + -0.0 is x for every x, also for x = -0.0: what nobody sent stays bit-identical.
NEGATIVE_ZERO = -0.0


@dataclass(frozen=True)
class UnitView:
    """How an average sees one tensor: every dimension as (units, coordinates of one unit).

    Attributes:
        counts: units per dimension, the shape of the denominators.
        sizes: coordinates of a unit per dimension.
        classes: (dimension that runs along the class axis, number of labels, units of one label), or None.
    """

    counts: tuple[int, ...]
    sizes: tuple[int, ...]
    classes: tuple[int, int, int] | None

    @staticmethod
    def of(tensor: TensorLayout, layout: Layout, *, per_coordinate: bool) -> UnitView:
        """Find the units of a declared tensor; with `per_coordinate` every coordinate is one."""
        sizes, classes = [], None
        for i, (dim, size) in enumerate(zip(tensor.dims, tensor.shape, strict=True)):
            if per_coordinate or not isinstance(dim, Along | None):  # of a concatenation, every coordinate
                sizes.append(1)
            else:
                sizes.append(size if dim is None else dim.inner)
            if isinstance(dim, Along) and layout.axes[dim.axis].kind is Kind.CLASS:
                classes = (i, layout.axes[dim.axis].size, dim.inner // sizes[i])
        counts = tuple(size // unit for size, unit in zip(tensor.shape, sizes, strict=True))
        return UnitView(counts, tuple(sizes), classes)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the denominators, to be broadcast against `pairs`."""
        return tuple(part for count in self.counts for part in (count, 1))

    def pairs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """View a full or local shape as (units, unit, units, unit, ...)."""
        return unit_pairs(shape, [size // unit for size, unit in zip(shape, self.sizes, strict=True)])


def unit_pairs(shape: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
    """Shape in which a tensor meets numbers that it has one of per unit, such as those of `PartialAverage.coverage`.

    Args:
        shape: of the tensor.
        counts: units per dimension.

    Returns:
        (units, coordinates of a unit) for every dimension.
    """
    return tuple(part for size, units in zip(shape, counts, strict=True) for part in (units, size // units))


class BlockScatter:
    """The places that one block of a submodel adds to, found once.

    Args:
        block: what a device holds of the tensor.
        units: how the average sees the tensor.
        numerators: seen as `units.pairs` of the full shape.
        weights: (2, *`units.shape`), denominators and holders.

    Attributes:
        has_classes: whether the tensor has rows of labels.
        whole: whether the block is the whole tensor, in its order.
        seen: shape of the local tensor as `units.pairs`.

    Raises:
        ValueError: the block cuts through a unit, or has an element mask although units are not coordinates.
    """

    def __init__(self, block: Block, units: UnitView, numerators: Tensor, weights: Tensor) -> None:
        if block.mask is not None and prod(units.sizes) != 1:
            raise ValueError(f"{block.source!r} has an element mask: the average needs `per_coordinate`")
        runs = [_in_units(block, per_dim, size) for per_dim, size in zip(block.runs, units.sizes, strict=True)]
        self._numerators, self._weights, self._classes = numerators, weights, units.classes
        self.seen = units.pairs(block.local_shape)
        self._unit_shape = tuple(part for count in self.seen[::2] for part in (count, 1))
        self._ones = (2, *[1] * len(self._unit_shape))
        self._mask = None if block.mask is None else block.mask.bool().view(self.seen)
        self.has_classes = units.classes is not None
        everything = all(r == ((0, count),) for r, count in zip(runs, units.counts, strict=True))
        self.whole = everything and block.mask is None
        # (slices of the local tensor, what they are added to in the numerators, and in the weights)
        self._boxes: list[tuple[tuple[slice, ...] | None, Tensor, Tensor]] = []
        self._indices: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None
        if prod(map(len, runs)) <= MOST_BOXES:
            self._boxes = [(inside, numerators[box], weights[:, *box]) for inside, box in _boxes(runs)]
        else:
            last = max(i for i, r in enumerate(runs) if r != ((0, units.counts[i]),))  # behind it all is kept in order
            kept = runs[: last + 1]
            self._indices = (_grid(kept, units.sizes), _grid(kept, [1] * len(kept)))

    def add(
        self, piece: Tensor | None, numerator: float, weights: Tensor, labels: Collection[int] | None = None
    ) -> None:
        """Add numerator · piece and the weights of one or more devices.

        Args:
            piece: flat local tensor; None if the numerators hold it already.
            numerator: factor of the piece.
            weights: (2,), the sum of the devices' denominators and how many they are.
            labels: the rows to add; None for all.
        """
        mask = self.held(labels)
        if piece is not None:
            local = piece.view(self.seen)
            added = local if mask is None else torch.where(mask, local * numerator, NEGATIVE_ZERO)
            factor = numerator if mask is None else 1.0
            for inside, places, _ in self._boxes:
                places.add_(added if inside is None else added[inside], alpha=factor)
            if self._indices:
                self._numerators.index_put_(self._indices[0], added * factor, accumulate=True)
        each = weights.view(self._ones)
        each = each if mask is None else each * mask
        for inside, _, places in self._boxes:
            places.add_(each if inside is None or mask is None else each[:, *inside])
        if self._indices:
            for row, weight in zip(self._weights, each, strict=True):
                row.index_put_(self._indices[1], weight, accumulate=True)

    def steps(self, piece: Tensor | None, weights: Tensor) -> list[Callable[[], object]]:
        """What `add` does with these two for all labels, whatever they hold then; found once.

        Args:
            piece: as there, with a numerator of 1.
            weights: as there.
        """
        if self._indices or self._mask is not None:
            return [partial(self.add, piece, 1.0, weights)]
        local = None if piece is None else piece.view(self.seen)
        steps: list[Callable[[], object]] = []
        for inside, places, units in self._boxes:
            if local is not None:
                steps.append(partial(places.squeeze().add_, (local if inside is None else local[inside]).squeeze()))
            units = units.squeeze()  # of dimensions of one there are many, and each costs
            steps.append(partial(units.add_, weights.view(-1, *[1] * (units.dim() - 1))))
        return steps

    def held(self, labels: Collection[int] | None) -> Tensor | None:
        """Which local units count (None: all), along `seen`: those of the element mask, in the rows of the labels."""
        if labels is None or self._classes is None:
            return self._mask
        dim, size, each = self._classes
        rows = torch.zeros(size, dtype=torch.bool)
        rows[list(labels)] = True
        # Every device holds all rows, once per outer unit.
        per_unit = rows.repeat_interleave(each).repeat(self.seen[2 * dim] // (size * each))
        held = per_unit.view(-1, *[1] * (len(self.seen) - 2 * dim - 1)).expand(self._unit_shape)
        return held if self._mask is None else held & self._mask


def _in_units(block: Block, runs: Runs, size: int) -> Runs:
    if any(start % size or length % size for start, length in runs):
        raise ValueError(f"a run of {block.source!r} cuts through a unit of {size} coordinates")
    return tuple((start // size, length // size) for start, length in runs)


def _boxes(per_dim: list[Runs]) -> list[tuple[tuple[slice, ...] | None, tuple[slice, ...]]]:
    """Pairs (slices of the local tensor or None for all of it, slices of the buffers)."""
    sides = []
    for runs in per_dim:
        local, side = 0, []
        for start, length in runs:
            side.append((slice(local, local + length), slice(start, start + length)))
            local += length
        sides.append(side)
    alone = all(len(side) == 1 for side in sides)
    return [
        (
            None if alone else tuple(part for inside, _ in box for part in (inside, slice(None))),
            tuple(part for _, outside in box for part in (outside, slice(None))),
        )
        for box in product(*sides)
    ]


def _grid(per_dim: list[Runs], sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Index vectors of the kept units and of the coordinates in them, each along its own dimension of a buffer."""
    pairs = zip(per_dim, sizes, strict=False)  # there may be more sizes
    indices = [part for runs, size in pairs for part in (coordinates(runs), torch.arange(size))]
    indices.pop()  # those inside the last dimension's units are taken as they are
    return tuple(index.view(-1, *[1] * (len(indices) - 1 - i)) for i, index in enumerate(indices))
