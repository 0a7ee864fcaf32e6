"""PartialAverage: the one aggregator, a ratio of sums per coordinate.

    new = previous + Σ aₖ·Δₖ / Σ bₖ        over the clients k that held the coordinate

A coordinate that nobody sent keeps its value, bit for bit. Every width and depth method of the field is this with other
blocks; FedAvg by examples is a = b = examples, the unweighted mean a = b = 1.

Cost: the work is memory traffic, so kept sets become boxes (slices) once per submodel, buffers live as long as the
average, denominators are kept per *unit*, not per coordinate (one number for a 3x3 kernel, one for the h·w inputs
of a flattened channel), and the end goes tensor by tensor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isfinite, prod, sqrt

import torch
from torch import Tensor

from models.algebra.axes import Kind, Layout
from models.algebra.block_scatter import NEGATIVE_ZERO, BlockScatter, UnitView
from models.algebra.division import divide
from models.algebra.submodel import Block, Submodel, split
from models.algebra.submodel_sum import Placed, SubmodelSum

# How many submodels' placements are remembered; per-client draws come once, tiers every round.
REMEMBERED = 32
# How many submodels of a round may have a sum of their own: as many as there are tiers, not as there are draws.
_MOST_SUMS = 16
_WHOLE = 0  # where the full network stands among the submodels' ids
# Weights and weighted norms beyond this, or positive ones below its inverse, do not add up in float32.
_LARGEST = 1e30


def norm_of(difference: Tensor) -> float:
    """L2 norm of a flat float32 vector, in one pass that finds NaN and infinity too: then it is not finite."""
    return sqrt(torch.dot(difference, difference).item())


class PartialAverage:
    """Adds submodels' differences and divides per coordinate by what was added.

    Args:
        layout: declaration of the full network.
        per_coordinate: keep one denominator per coordinate, which element masks need.
        apart: tensors of which only who held them is counted: they stay as they were.

    Clients of one submodel (one object) are summed in one flat buffer and scattered once, as long as these buffers are
    few and together stay below one state; the full network needs none. Nothing of a round outlives `reset` but the
    buffers themselves, so the same adds in the same order give the same bits whatever came before. Memory: two states
    and the denominators, whatever the number of clients.
    """

    def __init__(self, layout: Layout, *, per_coordinate: bool = False, apart: Collection[str] = ()) -> None:
        self.per_coordinate, self._apart = per_coordinate, frozenset(apart)
        self._shapes = layout.shapes
        self._units = {
            name: UnitView.of(tensor, layout, per_coordinate=per_coordinate) for name, tensor in layout.tensors.items()
        }
        classes = [axis.size for axis in layout.axes.values() if axis.kind is Kind.CLASS]
        self._labels = min(classes, default=None)
        self._flat = torch.full((layout.parameters,), NEGATIVE_ZERO)
        self._sums = torch.empty(layout.parameters)  # of submodels that are not the full network, one after the other
        pairs = {name: units.pairs(self._shapes[name]) for name, units in self._units.items()}
        shapes = {name: units.shape for name, units in self._units.items()}
        self._numerators = split(self._flat, pairs)
        self._weights = {name: torch.zeros(2, *shape) for name, shape in shapes.items()}
        self._denominators, self._holders = ({name: w[i] for name, w in self._weights.items()} for i in range(2))
        self._counted: set[str] = set(shapes)  # whose weights are of this round, or zero
        self._placements: OrderedDict[int, Placed] = OrderedDict()
        self._parts: dict[int, SubmodelSum] = {}
        self._used = 0  # coordinates of `_sums` that are taken
        self._stale = False  # whether the numerators still hold the sums of a round before
        self.added = 0  # submodels added since the last reset

    def reset(self) -> None:
        """Forget what was added."""
        for known, placed in list(self._placements.items()):
            if any(block.mask is not None for block in placed.submodel.blocks.values()):
                del self._placements[known]  # large, and of one state only
        self._parts.clear()
        self._counted.clear()
        self._used = self.added = 0
        self._stale = True

    def add(
        self,
        submodel: Submodel,
        difference: Tensor,
        numerator: float = 1.0,
        denominator: float = 1.0,
        labels: Collection[int] | None = None,
        *,
        norm: float | None = None,
    ) -> float:
        """Add one client's difference and return its L2 norm, or add nothing if something is wrong with it.

        Args:
            submodel: what the client held.
            difference: flat float32 vector of `submodel.numel` coordinates, in the submodel's order.
            numerator, denominator: a and b in the formula, the latter from 1e-30 to 1e30.
            labels: if given, class rows of other labels are not added (HeteroFL's masked classifier).
            norm: `norm_of` the difference, where it is known already; weights may depend on it.

        Raises:
            ValueError: wrong length or type, weights out of range, unknown labels, a difference with NaN or infinity
                or with a norm (weighted or not) that float32 cannot hold, or a submodel of another network. Nothing
                has been added then.
        """
        norm = self.check(submodel.numel, difference, (numerator, denominator), labels, norm)
        self._part(submodel).add(difference, numerator, denominator, labels)
        self.added += 1
        return norm

    def add_sum(self, submodel: Submodel, summed: Tensor, denominator: float, count: int) -> None:
        """Add the sum Σ aΔ of several clients that held one submodel, of whom none is known by itself.

        Args:
            submodel: what they held.
            summed: as the difference of `add`.
            denominator: Σ b.
            count: how many they are.

        Raises:
            ValueError: as `add`; nothing has been added then.
        """
        self.check(submodel.numel, summed, (1.0, denominator), None, None)
        self._part(submodel).add(summed, 1.0, denominator, None, count)
        self.added += count

    def check(
        self,
        numel: int,
        difference: Tensor,
        weights: tuple[float, float],
        labels: Collection[int] | None,
        norm: float | None,
    ) -> float:
        """What `add` raises of a part of so many coordinates, before anything is added; returns the norm."""
        numerator, denominator = weights
        if difference.dtype != torch.float32 or difference.shape != (numel,):
            found = f"{tuple(difference.shape)} of {difference.dtype}"
            raise ValueError(f"expected {numel} float32 coordinates, got {found}")
        if not (isfinite(numerator) and 1 / _LARGEST <= denominator <= _LARGEST):
            raise ValueError(f"weights must be finite and the denominator positive, got {numerator} / {denominator}")
        if labels is not None and not all(0 <= label < (self._labels or 0) for label in labels):
            raise ValueError(f"labels must be among 0 to {(self._labels or 0) - 1}, got {sorted(labels)[:5]}")
        norm = norm_of(difference) if norm is None else norm  # small submodels are still in cache
        if not (isfinite(norm) and norm * abs(numerator) <= _LARGEST):
            raise ValueError(f"the difference is not finite or too large (norm {norm:.3g}, weight {numerator:.3g})")
        return norm

    def finish(
        self,
        previous: Mapping[str, Tensor],
        out: Mapping[str, Tensor] | None = None,
        *,
        scale: float = 1.0,
        least: int = 1,
    ) -> dict[str, Tensor]:
        """Return previous + scale · Σ aΔ / Σ b; coordinates that nobody sent are bit-identical to `previous`.

        Args:
            previous: the state that the differences refer to.
            out: optional tensors to write the result into; they may be `previous` itself.
            scale: one factor for all coordinates, which may depend on who was added; positive.
            least: coordinates with fewer holders than this count as if nobody had sent them.

        Raises:
            ValueError: the factor is not positive and finite.
        """
        if not (isfinite(scale) and scale > 0):
            raise ValueError(f"the scale must be positive and finite, got {scale}")
        result = {}
        for name, numerators in self._settled(least):
            target = torch.empty(self._shapes[name]) if out is None else out[name]
            if name in self._apart:
                result[name] = target.copy_(previous[name])
                continue
            view, before = target.view(numerators.shape), previous[name].view(numerators.shape)
            # Where nothing was added the numerator is -0.0, so any positive divisor leaves the coordinate alone.
            divide(before, numerators, self._denominators[name], scale=scale, least=1 / _LARGEST, out=view)
            result[name] = target
        return result

    def shrink(self, shares: Mapping[str, Tensor]) -> None:
        """Let every coordinate take only a share of its step: divide by more. After the last `add`.

        Args:
            shares: by tensor, in the shapes of `denominators`, each more than 0; 1 changes nothing, bit for bit.
        """
        self._scatter()
        for name, share in shares.items():
            self._denominators[name].div_(share)

    def coverage(self) -> dict[str, Tensor]:
        """Per tensor, how many of the added submodels held each unit.

        Returns:
            float32 tensors with one entry per unit: a pair (number of units, 1) for every dimension of the tensor.
            `unit_size` says how many coordinates an entry stands for.
        """
        self._scatter()
        return {name: holders.clone() for name, holders in self._holders.items()}

    def denominators(self) -> dict[str, Tensor]:
        """Per tensor, the sum of the denominators that were added; shapes as of `coverage`."""
        self._scatter()
        return {name: denominators.clone() for name, denominators in self._denominators.items()}

    def unit_size(self, name: str) -> int:
        """Coordinates that one entry of `coverage()[name]` stands for."""
        return prod(self._units[name].sizes)

    def _freshen(self, *, overwritten: bool = False) -> None:
        """Drop the sums of the round before, except where the full network's first difference overwrites them."""
        if self._stale and not overwritten:
            self._flat.fill_(NEGATIVE_ZERO)
        elif self._stale:
            for name, units in self._units.items():
                if units.classes is not None:
                    self._numerators[name].fill_(NEGATIVE_ZERO)
        self._stale = False

    def _count_anew(self, name: str) -> None:
        """Let a tensor's weights begin at zero: right before the first of a round is added, for the caches."""
        if name not in self._counted:
            self._counted.add(name)
            self._weights[name].zero_()

    def _settled(self, least: int = 1) -> Iterator[tuple[str, Tensor]]:
        """Put the sums in their places and forget what too few submodels held, tensor by tensor.

        What is done with a tensor's numerators before the next one's turn finds them in the caches.
        """
        self._freshen()
        waiting = [part.steps() for part in self._parts.values()]
        for name, numerators in self._numerators.items():
            self._count_anew(name)
            for steps in waiting:
                for step in steps.get(name, ()):
                    step()
            if least > 1:
                few = self._holders[name] < least
                numerators.masked_fill_(few, NEGATIVE_ZERO)
                self._denominators[name].masked_fill_(few, 0.0)
                self._holders[name].masked_fill_(few, 0.0)
            yield name, numerators

    def _scatter(self) -> None:
        for _ in self._settled():
            pass

    def _part(self, submodel: Submodel) -> SubmodelSum:
        if id(submodel) in self._parts:
            return self._parts[id(submodel)]
        placed = self._placed(submodel)
        key = _WHOLE if placed.whole else id(submodel)
        if key in self._parts:
            return self._parts[key]
        sums = self._flat if placed.whole else None
        if not placed.whole and self._room_for(submodel.numel):
            sums = self._sums[self._used : self._used + submodel.numel]
            self._used += submodel.numel
        part = placed.sum_in(sums, self._apart)
        part.begin(written=placed.whole and not self._stale)
        self._freshen(overwritten=placed.whole)
        for name in part.singly:  # of the others the weights come last, in `_settled`
            self._count_anew(name)
        if sums is not None or self._apart:  # else it has nothing to remember
            self._parts[key] = part
        return part

    def _room_for(self, count: int) -> bool:
        """Whether one more submodel of so many coordinates may have a sum of its own."""
        summed = sum(part.sums is not None for part in self._parts.values())
        return summed < _MOST_SUMS and self._used + count <= self._sums.numel()

    def _placed(self, submodel: Submodel) -> Placed:
        """Find the submodel's placements, once; the submodel is kept with them so that its id stays its own."""
        if id(submodel) not in self._placements:
            placements = [self._placement(block) for block in submodel.values()]
            whole = [block.source for block in submodel.values()] == list(self._shapes)
            whole = whole and all(placement.whole for placement in placements)
            self._placements[id(submodel)] = Placed(submodel, placements, whole=whole)
            if len(self._placements) > REMEMBERED:
                self._placements.popitem(last=False)
        self._placements.move_to_end(id(submodel))
        return self._placements[id(submodel)]

    def _placement(self, block: Block) -> BlockScatter:
        if block.shape != self._shapes.get(block.source):
            raise ValueError(f"{block.source!r} {block.shape} is not a tensor of this network")
        name = block.source
        return BlockScatter(block, self._units[name], self._numerators[name], self._weights[name])


def pool(averages: Sequence[PartialAverage], names: Collection[str], *, denominators_only: bool = False) -> None:
    """Let averages of one network have some tensors in common, after the last `add`.

    Args:
        averages: each of them gets the sums over all.
        names: of the tensors.
        denominators_only: each keeps its own numerators and holders, so that it divides by what all were sent.
    """
    for average in averages:
        average._scatter()
    rows = [(average._denominators, average._holders, average._numerators) for average in averages]
    for name in names:
        for kind in range(1 if denominators_only else 3):
            views = [row[kind][name] for row in rows]
            total = views[0].clone()
            for view in views[1:]:
                total += view
            for view in views:
                view.copy_(total)
