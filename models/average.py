"""PartialAverage: the one aggregator, a ratio of sums per coordinate.

    new = previous + Σ aₖ·Δₖ / Σ bₖ        over the clients k that held the coordinate

A coordinate that nobody sent keeps its value, bit for bit. Every width and depth method of the field is this with other
blocks; FedAvg by examples is a = b = examples, the unweighted mean a = b = 1.

Cost: the work is memory traffic, so kept sets become boxes (slices) once per submodel, buffers live as long as the
average, and denominators are kept per *unit*, not per coordinate (one number for a 3x3 kernel, one for the h·w inputs of
a flattened channel).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product
from math import isfinite, prod

import torch
from torch import Tensor

from models.axes import Kind, Layout, Runs, TensorLayout
from models.submodel import Block, Submodel, coordinates, merged, split

# Beyond this many boxes a block is added through index vectors instead: a box costs microseconds whatever its size.
MOST_BOXES = 16
# Zero is -0.0 here because x + -0.0 is x for every x, also for x = -0.0: what nobody sent stays bit-identical.
_NOTHING = -0.0

_Box = tuple[tuple[slice, ...] | None, tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class _Units:
    """How one tensor is seen by the average: every dimension as (units, coordinates of one unit)."""

    counts: tuple[int, ...]  # units per dimension: the shape of the denominator
    sizes: tuple[int, ...]  # coordinates per unit
    classes: int | None  # the dimension that runs along the class axis

    @staticmethod
    def of(tensor: TensorLayout, layout: Layout) -> _Units:
        sizes = tuple(
            size if dim is None else dim.inner for size, dim in zip(tensor.shape, tensor.dims, strict=True)
        )
        classes = [
            i for i, dim in enumerate(tensor.dims) if dim is not None and layout.axes[dim.axis].kind is Kind.CLASS
        ]
        counts = tuple(n // max(1, u) for n, u in zip(tensor.shape, sizes, strict=True))
        return _Units(counts, sizes, classes[0] if classes else None)

    def view(self, tensor: Tensor) -> Tensor:
        """See a tensor of (full or local) coordinates as (units, unit, units, unit, ...)."""
        pairs = [
            part for n, u in zip(tensor.shape, self.sizes, strict=True) for part in ((n // u, u) if u else (0, 1))
        ]
        return tensor.view(pairs)

    def shape(self) -> list[int]:
        """Shape of the denominator, to be broadcast against `view`."""
        return [part for count in self.counts for part in (count, 1)]


class PartialAverage:
    """Adds submodels' differences and divides per coordinate by what was added.

    Args:
        layout: declaration of the full network.

    Clients of one submodel are summed in one flat buffer and scattered once, as long as these buffers together stay
    below one state; the full network needs none. Buffers are reused: `reset` starts the next round. Memory: at most two
    states and the small denominators, whatever the number of clients.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._shapes = {name: tensor.shape for name, tensor in layout.tensors.items()}
        self._units = {name: _Units.of(tensor, layout) for name, tensor in layout.tensors.items()}
        self._flat = torch.full((layout.parameters,), _NOTHING)
        flat_views = split(self._flat, self._shapes)
        self._numerators = {name: self._units[name].view(view) for name, view in flat_views.items()}
        self._denominators = {name: torch.zeros(units.shape()) for name, units in self._units.items()}
        self._holders = {name: torch.zeros(units.shape()) for name, units in self._units.items()}
        self._parts: dict[int, _Part] = {}
        self._spare = layout.parameters  # coordinates that new flat buffers may still take
        self.added = 0  # submodels added since the last reset

    def reset(self) -> None:
        """Forget what was added."""
        self._flat.fill_(_NOTHING)
        for name in self._denominators:
            self._denominators[name].zero_()
            self._holders[name].zero_()
        if len(self._parts) > 64:  # per-client draws would otherwise pile up round after round
            self._parts.clear()
            self._spare = self._layout.parameters
        for part in self._parts.values():
            part.clear()
        self.added = 0

    def add(
        self,
        submodel: Submodel,
        difference: Tensor,
        numerator: float = 1.0,
        denominator: float = 1.0,
        labels: Collection[int] | None = None,
    ) -> float:
        """Add one client's difference, or nothing at all if it is not finite.

        Args:
            submodel: what the client held.
            difference: flat float32 vector of `submodel.numel` coordinates, in the submodel's order.
            numerator: a in the formula; finite.
            denominator: b in the formula; finite and positive.
            labels: if given, class rows of other labels are not added (HeteroFL's masked classifier).

        Returns:
            The L2 norm of the difference.

        Raises:
            ValueError: wrong length or type, weights out of range, or a difference with NaN, infinity or an L2 norm
                beyond float32. Nothing has been added then.
        """
        if difference.dtype != torch.float32 or difference.shape != (submodel.numel,):
            raise ValueError(
                f"expected {submodel.numel} float32 coordinates, got {tuple(difference.shape)} of {difference.dtype}"
            )
        if not (isfinite(numerator) and isfinite(denominator) and denominator > 0):
            raise ValueError(f"weights must be finite and the denominator positive, got {numerator} / {denominator}")
        # One pass over the data gives the norm and finds NaN and infinity; small submodels are then still in cache.
        square = torch.dot(difference, difference).item()
        if not isfinite(square):
            raise ValueError("the difference is not finite")
        rows = None if labels is None else merged(tuple((label, 1) for label in sorted(set(labels))))
        self._part(submodel).add(difference, numerator, denominator, rows)
        self.added += 1
        return float(square**0.5)

    def finish(self, previous: Mapping[str, Tensor], out: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return previous + Σ aΔ / Σ b; coordinates that nobody sent are bit-identical to `previous`.

        Args:
            previous: the state that the differences refer to.
            out: optional tensors to write the result into; they may be `previous` itself.
        """
        self._scatter()
        result = {}
        for name, units in self._units.items():
            target = torch.empty(self._shapes[name]) if out is None else out[name]
            # Where nothing was added the numerator is -0.0, so any positive divisor leaves the coordinate alone.
            divisor = self._denominators[name].masked_fill(self._denominators[name] == 0, 1.0)
            torch.addcdiv(units.view(previous[name]), self._numerators[name], divisor, out=units.view(target))
            result[name] = target
        return result

    def coverage(self) -> dict[str, Tensor]:
        """Per tensor, how many of the added submodels held each unit.

        Returns:
            float32 tensors with one entry per unit: a pair (number of units, 1) for every dimension of the tensor.
            `unit_size` says how many coordinates an entry stands for.
        """
        self._scatter()
        return {name: holders.clone() for name, holders in self._holders.items()}

    def unit_size(self, name: str) -> int:
        """Coordinates that one entry of `coverage()[name]` stands for."""
        return prod(self._units[name].sizes)

    def _scatter(self) -> None:
        for part in self._parts.values():
            part.scatter()

    def _part(self, submodel: Submodel) -> _Part:
        part = self._parts.get(id(submodel))
        if part is None:
            targets = [self._target(block) for block in submodel.values()]
            whole = list(submodel) == list(self._shapes) and all(t.whole for t in targets)
            buffer = None
            if whole:
                buffer = self._flat
            elif submodel.numel <= self._spare:
                self._spare -= submodel.numel
                buffer = torch.zeros(submodel.numel)
            part = self._parts[id(submodel)] = _Part(submodel, targets, buffer, whole)
        return part

    def _target(self, block: Block) -> _Target:
        if block.shape != self._shapes[block.source]:
            raise ValueError(f"{block.source!r} has shape {self._shapes[block.source]}, the block says {block.shape}")
        buffers = (self._numerators[block.source], self._denominators[block.source], self._holders[block.source])
        return _Target(block, self._units[block.source], buffers)


class _Part:
    """All clients that hold one submodel: their sum in one flat buffer, and where it goes."""

    def __init__(self, submodel: Submodel, targets: list[_Target], buffer: Tensor | None, whole: bool) -> None:
        self._submodel = submodel  # kept so that its id is not given to another one
        self._targets, self._buffer, self._whole = targets, buffer, whole
        self._sizes = [block.numel for block in submodel.values()]
        # Tensors with class rows go to their place client by client (their rows differ); the rest in whole stretches.
        self._classes = [i for i, target in enumerate(targets) if target.has_classes]
        self._body = [i for i, target in enumerate(targets) if not target.has_classes]
        ends = [sum(self._sizes[: i + 1]) for i in range(len(targets))]
        self._stretches = merged(tuple((ends[i] - self._sizes[i], self._sizes[i]) for i in self._body))
        self._weight, self._count = 0.0, 0

    def clear(self) -> None:
        if self._buffer is not None and not self._whole and self._count:
            self._buffer.zero_()
        self._weight, self._count = 0.0, 0

    def add(self, difference: Tensor, numerator: float, denominator: float, rows: Runs | None) -> None:
        if self._classes or self._buffer is None:
            pieces = difference.split(self._sizes)
            for i in range(len(pieces)) if self._buffer is None else self._classes:
                target = self._targets[i]
                target.add(pieces[i], numerator, denominator, 1, rows if target.has_classes else None)
        if self._buffer is not None:
            for start, length in self._stretches:
                stretch = slice(start, start + length)
                self._buffer[stretch].add_(difference[stretch], alpha=numerator)
            self._weight += denominator
            self._count += 1

    def scatter(self) -> None:
        """Put the sum in its place; done once, after the last client."""
        if self._buffer is None or not self._count:
            return
        pieces = self._buffer.split(self._sizes)
        for i in self._body:
            self._targets[i].add(None if self._whole else pieces[i], 1.0, self._weight, self._count, None)
        self.clear()


class _Target:
    """The places in the buffers that one block of one submodel adds to, found once."""

    def __init__(self, block: Block, units: _Units, buffers: tuple[Tensor, Tensor, Tensor]) -> None:
        if block.mask is not None:
            raise NotImplementedError("element masks need a denominator per coordinate")
        self._units, self._buffers = units, buffers
        self._local_shape = [
            part for n, u in zip(block.local_shape, units.sizes, strict=True) for part in ((n // u, u) if u else (0, 1))
        ]
        self._runs: list[Runs] = []
        for runs, size in zip(block.runs, units.sizes, strict=True):
            if any(start % size or length % size for start, length in runs):
                raise ValueError(f"a run of {block.source!r} cuts through a unit of {size} coordinates")
            self._runs.append(tuple((start // size, length // size) for start, length in runs))
        self.has_classes = units.classes is not None
        self.whole = all(runs == ((0, count),) for runs, count in zip(self._runs, units.counts, strict=True))
        self._boxes = self._views(self._runs) if prod(len(runs) for runs in self._runs) <= MOST_BOXES else None

    def add(self, piece: Tensor | None, numerator: float, denominator: float, count: int, rows: Runs | None) -> None:
        """Add a flat piece of the local tensor (None: the numerators hold it already) and its weights."""
        local = None if piece is None else piece.view(self._local_shape)
        boxes = self._boxes if rows is None else self._class_views(rows)
        if boxes is None:
            indices = self._indices()
            ones = torch.ones([part for units in self._local_shape[::2] for part in (units, 1)])
            for buffer, source, weight in zip(self._buffers, (local, ones, ones), (numerator, denominator, count), strict=True):
                if source is not None:
                    _add_at(buffer, source, indices, weight)
            return
        for inside, (numerators, denominators, holders) in boxes:
            if local is not None:
                numerators.add_(local if inside is None else local[inside], alpha=numerator)
            denominators.add_(denominator)
            holders.add_(count)

    def _views(self, per_dim: list[Runs]) -> list[_Box]:
        """Pairs (slices of the local tensor or None for all of it, views of the three buffers)."""
        pairs = []
        for runs in per_dim:
            local, of_dim = 0, []
            for start, length in runs:
                of_dim.append((slice(local, local + length), slice(start, start + length)))
                local += length
            pairs.append(of_dim)
        result: list[_Box] = []
        whole = all(len(runs) == 1 for runs in per_dim)
        for box in product(*pairs):
            inside = tuple(part for local_slice, _ in box for part in (local_slice, slice(None)))
            outside = tuple(part for _, source_slice in box for part in (source_slice, slice(None)))
            views = (self._buffers[0][outside], self._buffers[1][outside], self._buffers[2][outside])
            result.append((None if whole else inside, views))
        return result

    def _class_views(self, rows: Runs) -> list[_Box]:
        """Boxes of the rows only. Every device holds all classes, so a row stands at the same place in both."""
        dim = self._units.classes
        assert dim is not None
        boxes: list[_Box] = []
        for start, length in rows:
            runs = [((start, length),) if i == dim else r for i, r in enumerate(self._runs)]
            for inside, views in self._views(runs):
                cut = [slice(None)] * (2 * len(runs)) if inside is None else list(inside)
                cut[2 * dim] = slice(start, start + length)
                boxes.append((tuple(cut), views))
        return boxes

    def _indices(self) -> list[Tensor | None]:
        full = [((0, count),) for count in self._units.counts]
        per_dim = [None if r == f else coordinates(r) for r, f in zip(self._runs, full, strict=True)]
        return [part for index in per_dim for part in (index, None)]


def _add_at(target: Tensor, source: Tensor, indices: list[Tensor | None], alpha: float, dim: int = 0) -> None:
    """target[ix(indices)] += alpha · source, row by row: gather the rows, go inside, put them back."""
    while dim < len(indices) and indices[dim] is None:
        dim += 1
    if dim == len(indices):
        target.add_(source, alpha=alpha)
        return
    index = indices[dim]
    assert index is not None
    if all(later is None for later in indices[dim + 1 :]):
        target.index_add_(dim, index, source, alpha=alpha)
        return
    rows = target.index_select(dim, index)
    _add_at(rows, source, indices, alpha, dim + 1)
    target.index_copy_(dim, index, rows)
