"""Means that a few wrong replies cannot move far: coordinate-wise trimmed mean and median, by coverage.

Yin, Chen, Ramchandran, Bartlett (ICML 2018), Definitions 1 and 2, for clients that hold different parts: both are taken
over those who held the coordinate. Up to f wrong ones among them are tolerated, which takes at least 2f + 1 holders;
with fewer the coordinate keeps its value, bit for bit.

Replies are not weighted: what a client says of its weight is as easily wrong as its difference. Each counts as the step
that it would make alone, a·Δ/b.

Cost: order statistics need every reply at once, so memory and time grow with the number of clients; that is why this is
no part of `PartialAverage`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from models.algebra.average import PartialAverage
from models.algebra.axes import Layout
from models.algebra.block_scatter import BlockScatter
from models.algebra.submodel import Submodel

Kind = Literal["trimmed-mean", "median"]
MEANS = ("mean", "trimmed-mean", "median")
_CHUNK = 1 << 22  # numbers that are sorted at a time


class RobustAverage(PartialAverage):
    """A `PartialAverage` whose mean is a trimmed mean or a median; holders and denominators are counted as there.

    Args:
        layout: declaration of the full network.
        kind: "trimmed-mean" leaves out the `faulty` lowest and highest values of a coordinate; "median" takes the
            middle one, or the mean of the two in the middle.
        faulty: f, how many wrong replies are tolerated at a coordinate.
        per_coordinate: see `PartialAverage`.
    """

    def __init__(self, layout: Layout, kind: Kind, faulty: int, *, per_coordinate: bool = False) -> None:
        super().__init__(layout, per_coordinate=per_coordinate)
        self._kind, self._faulty = kind, faulty
        self._replies: list[tuple[Submodel, list[BlockScatter], Tensor, Collection[int] | None]] = []

    def reset(self) -> None:
        """Forget what was added."""
        super().reset()
        self._replies.clear()

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
        """Add one client's difference (see `PartialAverage.add`), and keep it until `reset`."""
        norm = super().add(submodel, difference, numerator, denominator, labels, norm=norm)
        placements = self._placed(submodel).placements
        self._replies.append((submodel, placements, difference * (numerator / denominator), labels))
        return norm

    def finish(
        self,
        previous: Mapping[str, Tensor],
        out: Mapping[str, Tensor] | None = None,
        *,
        scale: float = 1.0,
        least: int = 1,
    ) -> dict[str, Tensor]:
        """Return previous + scale · (trimmed mean or median); see `PartialAverage.finish`."""
        result = {}
        for name, numerators in self._settled(max(least, 2 * self._faulty + 1)):
            target, before = torch.empty(self._shapes[name]) if out is None else out[name], previous[name]
            counts = self._holders[name].expand(numerators.shape).reshape(-1)
            middle = self._middle(self._stacked(name), counts).view(target.shape)
            moved = torch.where(counts.view(target.shape) > 0, before + scale * middle, before)
            result[name] = target.copy_(moved)
        return result

    def _stacked(self, name: str) -> Tensor:
        """Every reply's values of a tensor, (replies that hold it, coordinates); NaN where one holds nothing."""
        rows = []
        for submodel, placements, values, labels in self._replies:
            pieces = submodel.split(values)
            for block, piece, placement in zip(submodel.values(), pieces.values(), placements, strict=True):
                if block.source != name:
                    continue
                held = placement.held(labels)
                if held is not None:
                    piece = torch.where(held, piece.reshape(placement.seen), torch.nan).view(piece.shape)
                row = torch.full(self._shapes[name], torch.nan)
                block.scatter(piece, row)
                rows.append(row.flatten())
        return torch.stack(rows) if rows else torch.empty(0, self._numerators[name].numel())

    def _middle(self, values: Tensor, counts: Tensor) -> Tensor:
        """By column, the middle of as many values as were counted; of no meaning where the count is 0."""
        if not len(values):
            return torch.zeros_like(counts)
        width = max(1, _CHUNK // len(values))
        found = []
        for column, count in zip(torch.split(values, width, dim=1), torch.split(counts, width), strict=True):
            ordered, n = column.sort(dim=0).values, count.long()  # NaN comes last
            if self._kind == "median":
                low, high = ((n - 1) // 2).clamp_min(0), (n // 2).clamp_max(len(values) - 1)
                middle = (ordered.gather(0, low[None]) + ordered.gather(0, high[None]))[0] / 2
            else:
                place = torch.arange(len(values))[:, None]
                kept = (place >= self._faulty) & (place < n - self._faulty)
                middle = torch.where(kept, ordered, 0.0).sum(dim=0) / (n - 2 * self._faulty).clamp_min(1)
            found.append(middle)
        return torch.cat(found)
