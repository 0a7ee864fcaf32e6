"""What the clients of one submodel sent in a round, summed where the submodel is and put in its places once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from models.algebra.block_scatter import BlockScatter
from models.algebra.submodel import Submodel, merged


class SubmodelSum:
    """All clients of a round that hold one submodel: their sum in one flat buffer (if there is one), and its places.

    Tensors with class rows go to their places client by client, because their rows differ. What depends on submodel
    and buffer only is found once, and serves every round in which the submodel has this buffer.

    Args:
        submodel: what they hold.
        placements: where its tensors belong.
        sums: the buffer.
        whole: whether the submodel is the full network, whose buffer is the numerators themselves.
        apart: tensors of which only who held them is counted.

    Attributes:
        sums: see above.
        singly: tensors of the network that `add` changes itself; the others change by `steps`.
    """

    def __init__(
        self,
        submodel: Submodel,
        placements: list[BlockScatter],
        sums: Tensor | None,
        *,
        whole: bool,
        apart: Collection[str] = (),
    ) -> None:
        self._submodel = submodel  # kept so that its id is not given to another one
        self.sums, self._whole = sums, whole
        singly: list[tuple[str, BlockScatter, slice | None]] = []
        at_once, stretches = singly.copy(), []
        ends = pairwise(accumulate(submodel.lengths, initial=0))
        for block, placement, (start, end) in zip(submodel.values(), placements, ends, strict=True):
            left = block.source in apart
            # Of what is only counted nothing is added up, so that it needs no buffer to be put in its place once.
            summed = (left or sums is not None) and not placement.has_classes
            (at_once if summed else singly).append((block.source, placement, None if left else slice(start, end)))
            if summed and not left:
                stretches.append((start, end - start))
        self._singly, self._at_once, self._stretches = singly, at_once, merged(tuple(stretches))
        self.singly = frozenset(source for source, _, _ in singly)
        self._weights = torch.zeros(2)  # that `steps` add
        self.begin(written=False)

    def begin(self, *, written: bool) -> None:
        """Forget the clients; `written` says whether something is in the buffer already."""
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
        if self._singly:
            weights = torch.tensor([denominator, float(count)])
            for _, placement, piece in self._singly:
                placement.add(None if piece is None else difference[piece], numerator, weights, labels)
        for start, length in self._stretches:
            assert self.sums is not None  # or there are none
            source, target = difference[start : start + length], self.sums[start : start + length]
            if self._written:
                target.add_(source, alpha=numerator)
            else:
                torch.mul(source, numerator, out=target)
        self._written = True
        self._weight += denominator
        self._count += count

    def steps(self) -> Mapping[str, Sequence[Callable[[], object]]]:
        """What puts the sum in its place, by tensor of the network; to be done before the next client."""
        if not self._count:
            return {}
        self._weights.copy_(torch.tensor([self._weight, self._count], dtype=torch.float32))
        self.begin(written=self._whole)
        return self._steps

    @cached_property
    def _steps(self) -> dict[str, list[Callable[[], object]]]:
        steps: dict[str, list[Callable[[], object]]] = {}
        for source, placement, piece in self._at_once:
            summed = None  # nothing is to be added, or it is there already
            if piece is not None and self.sums is not None and not self._whole:
                summed = self.sums[piece]
            steps.setdefault(source, []).extend(placement.steps(summed, self._weights))
        return steps


@dataclass(slots=True)
class Placed:
    """Where a submodel's tensors belong, which is found once.

    Attributes:
        submodel: which one.
        placements: where its tensors belong, in order.
        whole: whether it is the full network.
        last: its sum of the last round in which it had one.
    """

    submodel: Submodel
    placements: list[BlockScatter]
    _: KW_ONLY
    whole: bool
    last: SubmodelSum | None = None

    def sum_in(self, sums: Tensor | None, apart: Collection[str]) -> SubmodelSum:
        """A sum in this buffer: the last one, if it had the same."""
        had = None if self.last is None else self.last.sums
        same = had is sums if had is None or sums is None else had.data_ptr() == sums.data_ptr()
        if self.last is None or not same:
            self.last = SubmodelSum(self.submodel, self.placements, sums, whole=self.whole, apart=apart)
        return self.last
