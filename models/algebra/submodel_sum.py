"""What the clients of one submodel sent in a round, summed where the submodel is and put in its places once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from models.algebra.block_scatter import BlockScatter
from models.algebra.submodel import Submodel, merged


class SubmodelSum:
    """All clients of a round that hold one submodel: their sum in one flat buffer (if there is one), and its places.

    Tensors with class rows go to their places client by client, because their rows differ.

    Args:
        submodel: what they hold.
        placements: where its tensors belong.
        sums: the buffer.
        whole: whether the submodel is the full network, whose buffer is the numerators themselves.
        written: whether something is in the buffer already.
        apart: tensors of which only who held them is counted.
    """

    def __init__(
        self,
        submodel: Submodel,
        placements: list[BlockScatter],
        sums: Tensor | None,
        *,
        whole: bool,
        written: bool,
        apart: Collection[str] = (),
    ) -> None:
        self._submodel = submodel  # kept so that its id is not given to another one
        self._placements, self._sums, self._whole = placements, sums, whole
        self._sizes = [block.numel for block in submodel.values()]
        ends = [sum(self._sizes[: i + 1]) for i in range(len(placements))]
        self._apart = [block.source in apart for block in submodel.values()]
        # Of what is only counted nothing is added up, so that it needs no buffer to be put in its place once.
        self._summed = [
            (left or sums is not None) and not placement.has_classes
            for placement, left in zip(placements, self._apart, strict=True)
        ]
        added = [summed and not left for summed, left in zip(self._summed, self._apart, strict=True)]
        stretches = [(end - n, n) for end, n, own in zip(ends, self._sizes, added, strict=True) if own]
        self._stretches = merged(tuple(stretches))
        self._weight, self._count, self._written = 0.0, 0, written

    def add(
        self,
        difference: Tensor,
        numerator: float,
        denominator: float,
        labels: Collection[int] | None,
        count: int = 1,
    ) -> None:
        """Add what one client sent, or the sum of what `count` did; see `PartialAverage.add`."""
        if not all(self._summed):
            weights = torch.tensor([denominator, float(count)])
            for placement, piece, summed, left in self._each(difference):
                if not summed:
                    placement.add(None if left else piece, numerator, weights, labels)
        for start, length in self._stretches:
            assert self._sums is not None  # or there are none
            source, target = difference[start : start + length], self._sums[start : start + length]
            if self._written:
                target.add_(source, alpha=numerator)
            else:
                torch.mul(source, numerator, out=target)
        self._written = True
        self._weight += denominator
        self._count += count

    @property
    def has_sums(self) -> bool:
        """Whether it has a buffer."""
        return self._sums is not None

    def scatter(self) -> None:
        """Put the sum in its place, after the last client."""
        if not self._count or not any(self._summed):
            return
        weights = torch.tensor([self._weight, self._count], dtype=torch.float32)
        pieces: Sequence[Tensor | None] = [None] * len(self._sizes)
        if self._sums is not None and not self._whole:
            pieces = self._sums.split(self._sizes)  # type: ignore[no-untyped-call]
        for placement, piece, summed, left in zip(self._placements, pieces, self._summed, self._apart, strict=True):
            if summed:
                placement.add(None if left else piece, 1.0, weights)
        self._weight, self._count, self._written = 0.0, 0, self._whole

    def _each(self, flat: Tensor) -> Iterator[tuple[BlockScatter, Tensor, bool, bool]]:
        pieces = flat.split(self._sizes)  # type: ignore[no-untyped-call]
        return zip(self._placements, pieces, self._summed, self._apart, strict=True)
